package fsm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/*.txt")

// TestScenarios runs testdata/*.txt. A block is commands, a line ----, and what they answer; blocks are separated by empty lines, and # begins a
// comment. Everything in a file happens to one FSM. The commands:
//
//	append STREAM EXPECTED EVENT… [when CONDITION…]   an entry of one append; EXPECTED is n, none, any or exists
//	several STREAM:EVENT… [when CONDITION…]           the same over several streams
//	entry … end                           the appends between are the commands of one entry
//	raw HEX                               an entry of these bytes
//	noop                                  an entry of raft's own
//	replay                                all entries so far, again
//	read STREAM [from=N] [limit=N] [now=SECONDS] [backward] [all]     all: page after page; now: later than all events
//	all [after=N] [limit=N] [backward] [all]
//	query QUERY [after=N] [limit=N] [backward] [all]
//	streams [prefix=P] [after=S] [limit=N]
//	info
//	reopen
//	move                                  a snapshot restored into an empty FSM, which takes over
//
// and the changes and looks of scenario_change_test.go.
//
// EVENT is ID[/TYPE][#TAG]…[=DATA], DATA JSON without spaces. CONDITION is STREAM@EXPECTED or QUERY[>AFTER]. QUERY is ?ITEM[|ITEM]…, and an ITEM
// types=T,T&tags=T&prefixes=P&streams=P, of which all but one may be left out.
func TestScenarios(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := &scenario{dir: t.TempDir()}
			s.f = openAt(t, s.path())
			defer func() { s.f.Close() }()
			got := s.run(t, string(file))
			if err := s.f.Verify(); err != nil {
				t.Error(err)
			}
			switch {
			case got == string(file):
			case *update:
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			default:
				t.Errorf("got\n%s\nwant\n%s\n(go test -run TestScenarios -update rewrites it)", got, file)
			}
		})
	}
}

type scenario struct {
	dir   string
	files int
	f     *FSM
	log   []*raft.Log
	open  []Body // commands of an entry that has not ended
	entry bool
}

func (s *scenario) path() string { return filepath.Join(s.dir, fmt.Sprint(s.files)) }

// run returns the file with the outputs replaced by the real ones.
func (s *scenario) run(t *testing.T, file string) string {
	var out, answers strings.Builder
	inOutput := false
	for line := range strings.Lines(strings.TrimRight(file, "\n") + "\n\n") {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			if inOutput {
				out.WriteString(answers.String())
				answers.Reset()
			}
			inOutput = false
			out.WriteString("\n")
		case inOutput: // the old output
		case line == "----":
			inOutput = true
			out.WriteString("----\n")
		default:
			out.WriteString(line + "\n")
			if !strings.HasPrefix(line, "#") {
				answers.WriteString(s.command(t, line))
			}
		}
	}
	if answers.Len() > 0 {
		t.Fatalf("answers without a line ---- to stand under: %s", answers.String())
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (s *scenario) command(t *testing.T, line string) string {
	t.Helper()
	words := strings.Fields(line)
	opts := make(map[string]string)
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		opts[k] = v
	}
	number := func(key string, without uint64) uint64 {
		v, ok := opts[key]
		if !ok {
			return without
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	_, backward := opts["backward"]
	_, all := opts["all"]
	limit := int(number("limit", noLimit))
	switch words[0] {
	case "append", "several":
		a := s.parse(t, words[0], words[1:])
		s.open = append(s.open, a.Body())
		if s.entry {
			return ""
		}
		return s.apply(raft.LogCommand, nil)
	case "entry":
		s.entry = true
		return ""
	case "end":
		s.entry = false
		return s.apply(raft.LogCommand, nil)
	case "raw":
		var b []byte
		if _, err := fmt.Sscanf(words[1], "%x", &b); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return s.apply(raft.LogCommand, b)
	case "noop":
		return s.apply(raft.LogConfiguration, []byte("raft's own"))
	case "replay":
		n := 0
		for _, r := range s.f.ApplyBatch(s.log) {
			if r != nil {
				n++
			}
		}
		return fmt.Sprintf("%d entries, %d results\n", len(s.log), n)
	case "read":
		_, given := opts["from"]
		q := StreamQuery{From: number("from", 0), FromEnd: !given, Limit: limit, MaxBytes: noLimit, Backward: backward, Now: later(number("now", 0))}
		var out string
		for {
			page, err := s.f.ReadStream(words[1], q)
			if err != nil {
				return api.AsError(err).Name + "\n"
			}
			out += printEvents(page.Events) + fmt.Sprintf("next %d, end %v, last version %d\n", page.Next, page.End, page.LastVersion)
			if !all || page.End {
				return out
			}
			q.From, q.FromEnd = page.Next, false
		}
	case "all", "query":
		_, given := opts["after"]
		q := AllQuery{After: number("after", 0), FromEnd: !given, Limit: limit, MaxBytes: noLimit, Backward: backward, Now: later(number("now", 0))}
		if words[0] == "query" {
			q.Query = parseQuery(t, words[1])
		}
		var out string
		for {
			page, err := s.f.ReadAll(q)
			if err != nil {
				return api.AsError(err).Error() + "\n"
			}
			out += printEvents(page.Events) + fmt.Sprintf("next %d, end %v, last position %d\n", page.Next, page.End, page.LastPosition)
			if !all || page.End {
				return out
			}
			q.After, q.FromEnd = page.Next, false
		}
	case "streams":
		page, _, end, err := s.f.Streams(opts["prefix"], opts["after"], limit)
		if err != nil {
			return err.Error() + "\n"
		}
		var out string
		for _, i := range page {
			out += fmt.Sprintf("%s: %d events, version %d\n", i.Name, i.Events, i.Version)
		}
		return out + fmt.Sprintf("end %v\n", end)
	case "info":
		i, err := s.f.Info()
		if err != nil {
			return err.Error() + "\n"
		}
		return fmt.Sprintf("%d events in %d streams, entry %d of term %d\n", i.Events, i.Streams, i.Applied, i.Term)
	case "reopen":
		if err := s.f.Close(); err != nil {
			t.Fatal(err)
		}
		s.f = openAt(t, s.path())
		return ""
	case "move":
		b := snapshotOf(t, s.f)
		if err := s.f.Close(); err != nil {
			t.Fatal(err)
		}
		s.files++
		s.f = openAt(t, s.path())
		if err := restore(s.f, b); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if c := parseChange(t, words, opts, number); c != nil {
		s.open = append(s.open, ChangeBody(c))
		if s.entry {
			return ""
		}
		return s.apply(raft.LogCommand, nil)
	}
	if out, ok := s.look(t, words, number); ok {
		return out
	}
	t.Fatalf("unknown command: %s", line)
	return ""
}

func (s *scenario) parse(t *testing.T, verb string, words []string) Append {
	t.Helper()
	a := Append{Time: testTime, Expected: api.ExpectAny}
	if verb == "append" {
		a.Stream, a.Expected, words = words[0], expectation(t, words[1]), words[2:]
	}
	var streams []string
	for i, w := range words {
		if w == "when" {
			for _, w := range words[i+1:] {
				a.Conditions = append(a.Conditions, parseCondition(t, w))
			}
			break
		}
		if verb == "several" {
			var stream string
			stream, w, _ = strings.Cut(w, ":")
			if !slices.Contains(streams, stream) {
				streams = append(streams, stream)
			}
			a.Of = append(a.Of, slices.Index(streams, stream))
		}
		front, data, given := strings.Cut(w, "=")
		tags := strings.Split(front, "#")
		id, typ, typed := strings.Cut(tags[0], "/")
		e := EventRecord{ID: id, Type: "t", Tags: tags[1:]}
		if typed {
			e.Type = typ
		}
		if given {
			e.JSON, e.Data = true, []byte(data)
		}
		a.Events = append(a.Events, e)
	}
	if verb == "several" {
		a.Stream, a.Others = streams[0], streams[1:]
	}
	return a
}

func expectation(t *testing.T, word string) int64 {
	expected, ok := map[string]int64{"none": api.ExpectNoStream, "any": api.ExpectAny, "exists": api.ExpectExists}[word]
	if !ok {
		var err error
		if expected, err = strconv.ParseInt(word, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return expected
}

func parseCondition(t *testing.T, word string) (c api.Condition) {
	if !strings.HasPrefix(word, "?") {
		stream, expected, _ := strings.Cut(word, "@")
		version := expectation(t, expected)
		return api.Condition{Stream: stream, Version: &version}
	}
	query, after, given := strings.Cut(word, ">")
	if c.Query = parseQuery(t, query); given {
		var err error
		if c.After, err = strconv.ParseUint(after, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func parseQuery(t *testing.T, word string) *api.Query {
	q := &api.Query{}
	for _, item := range strings.Split(strings.TrimPrefix(word, "?"), "|") {
		var it api.QueryItem
		for _, part := range strings.Split(item, "&") {
			name, texts, _ := strings.Cut(part, "=")
			into, ok := map[string]*[]string{"types": &it.Types, "tags": &it.Tags, "prefixes": &it.TypePrefixes, "streams": &it.StreamPrefixes}[name]
			if !ok {
				t.Fatalf("query %s: unknown part %q", word, name)
			}
			*into = strings.Split(texts, ",")
		}
		q.Items = append(q.Items, it)
	}
	return q
}

// apply applies an entry: of data, or of the appends that are open.
func (s *scenario) apply(typ raft.LogType, data []byte) string {
	if data == nil {
		data = EncodeBodies(s.open)
		s.open = nil
	}
	l := &raft.Log{Index: uint64(len(s.log)) + 1, Term: 1, Type: typ, Data: data}
	s.log = append(s.log, l)
	r, ok := s.f.Apply(l).(Result)
	if !ok {
		return "no result\n"
	}
	var out string
	for _, a := range r.Append {
		if a.Value != nil {
			out += describeValue(a.Value)
		} else {
			out += describe(a)
		}
		if a.Err != nil && a.Err.ActualVersion != nil {
			out += fmt.Sprintf(", is at %d", *a.Err.ActualVersion)
		}
		out += describeRest(&a)
		out += "\n"
	}
	return out
}

// describeRest prints what only appends over several streams or with conditions answer.
func describeRest(a *AppendResult) (out string) {
	for _, r := range a.Streams {
		out += fmt.Sprintf("\n  %s: %d-%d at %d-%d", r.Stream, r.FirstVersion, r.Version, r.FirstPosition, r.Position)
	}
	if a.Err == nil {
		return out
	}
	for _, c := range a.Err.Failed {
		if c.After != nil {
			out += fmt.Sprintf("\n  [%d] %d matches behind %d", c.Index, c.Position, *c.After)
		} else {
			out += fmt.Sprintf("\n  [%d] %s is at %d, wanted %d", c.Index, c.Stream, *c.ActualVersion, *c.ExpectedVersion)
		}
	}
	return out
}

func printEvents(events []api.Event) string {
	var out string
	for _, e := range events {
		out += fmt.Sprintf("%d %s@%d %s %s", e.Position, e.Stream, e.Version, e.ID, e.Body())
		out = strings.TrimRight(out, " ") + "\n"
	}
	return out
}
