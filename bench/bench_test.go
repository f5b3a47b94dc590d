package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"median of three", fmt.Sprint(median([]float64{5, 1, 3})), "3"},
		{"median of four", fmt.Sprint(median([]float64{4, 1, 3, 2})), "2.5"},
		{"ratios are of pairs, not of the medians", ratios([]float64{2, 9, 8}, []float64{1, 3, 2}), "×2.00 / ×3.00 / ×4.00"},
		{"a pair that is missing is left out", ratios([]float64{2, 9}, []float64{1}), "×2.00"},
		{"no division by nothing", ratios([]float64{2}, []float64{0}), "?"},
		{"spread", spread([]float64{123.4, 12.34, 1.234}), "1.23 / 12.3 / 123"},
		{"spread of one", spread([]float64{0.125}), "0.12"},
		{"thousands", strings.Join([]string{thousands(1), thousands(999), thousands(1000), thousands(10_000_000)}, " "), "1 999 1,000 10,000,000"},
		{"sizes", bytesOf(256) + " " + bytesOf(4096), "256 B 4 KiB"},
		{"payload", fmt.Sprint(len(payloadOf(256)), len(payloadOf(4096))), "256 4096"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

func TestGoals(t *testing.T) {
	values := map[string][]float64{nameQuorate: {2, 3, 10}, nameDefault: {2, 2, 2}}
	for _, c := range []struct {
		goal goal
		want string
	}{
		{atLeast(1.5, nameDefault), "goal ≥ 1.5× JetStream, default: 1.50×, met"},
		{atLeast(2, nameDefault), "goal ≥ 2× JetStream, default: 1.50×, missed"},
		{atLeast(0.9, ""), "goal ≥ 0.9: 3.00, met"},
		{atMost(3), "goal ≤ 3: 3.00, met"},
		{atMost(2.9), "goal ≤ 2.9: 3.00, missed"},
		{goal{AtMost: 3, Every: true}, "goal ≤ 3: 10.0, missed"},
		{goal{AtLeast: 3, Every: true}, "goal ≥ 3: 2.00, missed"},
		{goal{Than: nameDefault, AtMost: 1.5, Below: true}, "goal < 1.5× JetStream, default: 1.50×, missed"},
		{goal{Than: nameDefault, AtMost: 1.6, Below: true}, "goal < 1.6× JetStream, default: 1.50×, met"},
		{atLeast(2, nameAlways), "goal ≥ 2× JetStream, sync always: not measured"},
	} {
		got, met := (&result{Values: values}).judgeOne(c.goal)
		if got != c.want || met != strings.HasSuffix(c.want, ", met") {
			t.Errorf("%q, %v; want %q", got, met, c.want)
		}
	}
	if v, ok := (&result{Values: values, Goals: []goal{atLeast(2, nameDefault), atLeast(5, ""), atLeast(9, nameAlways)}}).goalAt(); v != 5 || !ok {
		t.Errorf("the hardest goal is at %v, %v", v, ok)
	}
	if v, ok := (&result{LowerBetter: true, Values: values, Goals: []goal{{Than: nameDefault, AtMost: 1, Below: true}, atMost(5)}}).goalAt(); v != 2 || !ok {
		t.Errorf("the hardest limit is at %v, %v", v, ok)
	}
}

// TestIssueGoals holds the rows against the goals of the issue, so that none is forgotten.
func TestIssueGoals(t *testing.T) {
	big, many := newBigRows(10), newManyRows(1000)
	for _, c := range []struct {
		row  *result
		want string
	}{
		{appendRow(topicAppends, 1, 1, 256), "≥ 2× JetStream, sync always"},
		{appendRow(topicAppends, 64, 1, 256), "≥ 2× JetStream, sync always; ≥ 1× JetStream, default"},
		{appendRow(topicAppends, 64, 64, 256), "≥ 4× JetStream, sync always; ≥ 1.3× JetStream, default"},
		{appendRow(topicAppends, 64, 64, 4096), ""},
		{newReadRows(10).whole, "≥ 1× JetStream, default"}, {newReadRows(10).disk, "≤ 512"},
		{many.idle, "≤ 0.05"}, {many.memory, "≤ 150"},
		{many.most, "≤ 1.5; < 1× JetStream, sync always; < 1× JetStream, default"},
		{big.against, "≥ 0.9"}, {big.ready, "≤ 2"}, {big.disk, "≤ 512"},
	} {
		lines, _ := c.row.judge()
		for i, l := range lines {
			lines[i] = strings.TrimSuffix(strings.TrimPrefix(l, "goal "), ": not measured")
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: goals %q, want %q", c.row.Name, got, c.want)
		}
	}
}

func TestMarkers(t *testing.T) {
	text := "# A\n" + beginMark + "\nold\n" + endMark + "\nrest\n"
	got, err := between(text, "new\n")
	if want := "# A\n" + beginMark + "\nnew\n" + endMark + "\nrest\n"; err != nil || got != want {
		t.Errorf("%v: %q", err, got)
	}
	if _, err := between("no markers", "x"); err == nil {
		t.Error("a file without markers was written over")
	}
}

// sample is a report with everything that a report can have.
func sample() *report {
	r := &report{Machine: "a machine", Command: "bench -x", Date: "2026-01-02", Systems: []string{nameQuorate, nameAlways, nameEtcd},
		Skipped: []string{"late row: no time"}, Failed: map[string]string{nameDefault: "no port"}}
	a := newResult(topicAppends, "a < b", "x/s").goal(atLeast(2, nameAlways), atLeast(100, ""))
	a.Values = map[string][]float64{nameQuorate: {4, 6}, nameAlways: {2, 3}}
	a.Costs[nameQuorate] = []cost{{100, 40}, {120, 44}, {300, 45}}
	a.Errors[nameAlways] = 2
	a.Failed[nameEtcd] = "it | broke"
	f := newResult(topicFailover, "time", "s").lower().goal(atMost(1.5)).note("tried often")
	f.Values = map[string][]float64{nameQuorate: {0.5}, nameAlways: {8}}
	f.LeftOut[nameEtcd] = "one group"
	r.Rows = []*result{a, f}
	return r
}

func TestTables(t *testing.T) {
	got := tables(sample())
	for _, want := range []string{
		"### Appends\n\n![Appends, as bars](bench-appends.svg)\n",
		"| a &lt; b | x/s | 4.00 / 5.00 / 6.00<br>120 + 44 µs | 2.00 / 2.50 / 3.00<br>×2.00 / ×2.00 / ×2.00<br>**2 errors** | **failed** | ≥ 2× JetStream, sync always: 2.00×, met<br>≥ 100: 5.00, missed |\n",
		"| time | s | 0.50 | 8.00<br>×0.06 | – | ≤ 1.5: 0.50, met |\n",
		"- a &lt; b: etcd failed: it \\| broke\n",
		"- time: tried often.\n- etcd is left out: one group.\n",
		"- JetStream, default: no port\n- late row: no time\n",
		"Command: `bench -x`",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "### Many stores") {
		t.Error("a topic without rows has a table")
	}
	for _, line := range strings.Split(got, "\n") { // every line of a table has as many cells as its head
		if n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); strings.HasPrefix(line, "|") && n != 7 {
			t.Errorf("%d bars in %q", n, line)
		}
	}
	both := []*result{newResult("t", "one", "s"), newResult("t", "two", "s"), newResult("t", "three", "s")}
	for i, row := range both {
		row.LeftOut[nameEtcd] = "everywhere"
		if i < 2 {
			row.LeftOut[nameAlways] = "here"
		}
	}
	if got := strings.Join(leftOutOf(both), "\n"); got != "one; two: JetStream, sync always is left out: here.\netcd is left out: everywhere." {
		t.Errorf("left out: %s", got)
	}
	if lines := sample().verdicts(); lines[len(lines)-1] != "2 of 3 goals met" {
		t.Errorf("%q", lines)
	}
	if text := sample().Rows[0].text(sample().Systems); !strings.Contains(text, "FAILED: it | broke") || !strings.Contains(text, "2 errors") {
		t.Errorf("%s", text)
	}
}

// TestPictures: a picture a topic, each well-formed, each bar with its system's name and figure, nothing outside.
func TestPictures(t *testing.T) {
	dir := t.TempDir()
	if err := draw(dir, sample()); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 2 {
		t.Fatalf("pictures: %v", files)
	}
	raw, err := os.ReadFile(filepath.Join(dir, pictureName(topicAppends)))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	bars, goals := 0, 0
	attr := func(e xml.StartElement, name string) (v float64, ok bool) {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				_, err := fmt.Sscan(a.Value, &v)
				return v, err == nil
			}
		}
		return 0, false
	}
	widths := map[string]float64{}
	for d := xml.NewDecoder(strings.NewReader(string(raw))); ; {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
		switch e := tok.(type) {
		case xml.CharData:
			texts = append(texts, strings.TrimSpace(string(e)))
		case xml.StartElement:
			for _, name := range []string{"x", "x1", "x2"} {
				if v, ok := attr(e, name); ok && (v < 0 || v > pictureWidth) {
					t.Errorf("%s at %v", e.Name.Local, v)
				}
			}
			for _, a := range e.Attr {
				if a.Name.Local == "class" && strings.HasPrefix(a.Value, "s") && a.Value != "soft" {
					bars++
					widths[a.Value], _ = attr(e, "width")
				}
				if a.Name.Local == "class" && a.Value == "goal" {
					goals++
				}
			}
		}
	}
	if bars != 2 || goals != 1 {
		t.Errorf("%d bars, %d goals", bars, goals)
	}
	if ratio := widths["s0"] / widths["s1"]; ratio < 1.98 || ratio > 2.02 {
		t.Errorf("a figure twice as big has a bar %v times as long", ratio)
	}
	for _, want := range []string{"a < b", nameQuorate, nameAlways, nameEtcd, "failed", "5.00", "2.50", "goal 100 missed", "x/s; more is better"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no text %q in %q", want, texts)
		}
	}
	if !strings.Contains(string(raw), "prefers-color-scheme:dark") {
		t.Error("nothing for dark pages")
	}
}

// TestTextsFit: no figure is so long that its text leaves the picture. A letter is taken to be 7 wide, a bold one 7.5.
func TestTextsFit(t *testing.T) {
	for _, rows := range [][]*result{newManyRows(1000).all(), newBigRows(10_000_000).all(), newReadRows(300_000).all(), {appendRow(topicAppends, 64, 64, 256)}} {
		r := &report{Systems: []string{nameQuorate, nameAlways, nameDefault, nameEtcd}}
		for _, row := range rows {
			for i, s := range r.Systems {
				row.Values[s] = []float64{123456 + float64(i), 223456}
			}
		}
		text := regexp.MustCompile(`<text[^>]* x="([\d.]+)"([^>]*)>(.*?)</text>`)
		found := text.FindAllStringSubmatch(picture("Title", r, rows), -1)
		if len(found) < 6*len(rows) {
			t.Fatalf("%d texts", len(found))
		}
		for _, m := range found {
			var x float64
			fmt.Sscan(m[1], &x)
			width := 7.0
			if strings.Contains(m[2], "bold") {
				width = 7.5
			}
			width *= float64(len([]rune(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(m[3], " "))))
			left, right := x, x+width
			if strings.Contains(m[2], `"end"`) {
				left, right = x-width, x
			}
			if left < 0 || right > pictureWidth {
				t.Errorf("%q lies between %.0f and %.0f of %d", m[3], left, right, pictureWidth)
			}
		}
	}
}

// named is a system of which only the name is asked for.
type named struct {
	system
	title string
}

func (n named) name() string { return n.title }

// TestMeasure: another system is first in each round; one that fails is reported and not measured again, the others go on, and pairs stay pairs.
func TestMeasure(t *testing.T) {
	b := &bench{began: time.Now()}
	b.config.rounds, b.limit, b.rows = 3, time.Hour, regexp.MustCompile(".")
	var order []string
	row := newResult(topicAppends, "row", "x")
	b.measure(t.Context(), []system{named{title: "A"}, named{title: "B"}, named{title: "C"}}, row, func(s system) (float64, error) {
		order = append(order, s.name())
		switch {
		case s.name() == "B" && len(order) > 3:
			return 0, errors.New("no\nmore")
		case s.name() == "C":
			return 0, fmt.Errorf("wrapped: %w", leftOut("no sense"))
		}
		return float64(len(order)), nil
	})
	if got := strings.Join(order, ""); got != "ABCBAA" {
		t.Errorf("measured in the order %s", got)
	}
	if fmt.Sprint(row.Values) != "map[A:[1 5 6] B:[2]]" || row.Failed["B"] != "no more" || row.LeftOut["C"] != "no sense" || len(row.Failed) != 1 || len(b.report.Rows) != 1 {
		t.Errorf("%+v", row)
	}
	b.limit = 0
	b.measure(t.Context(), nil, newResult(topicAppends, "late", "x"), nil)
	if len(b.report.Rows) != 1 || len(b.report.Skipped) != 1 {
		t.Errorf("%+v", b.report)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	b.limit = time.Hour
	b.measure(over, []system{named{title: "A"}}, row, func(system) (float64, error) { t.Error("measured after an interrupt"); return 0, nil })
}

// flaky fails its first appends; one is kept waiting for ever.
type flaky struct {
	client
	tries chan int
}

func (f flaky) append(ctx context.Context, _, _ int, _ []byte) error {
	n := <-f.tries
	f.tries <- n + 1
	switch n {
	case 0:
		<-ctx.Done()
		return ctx.Err()
	case 1:
		return errors.New("no leader")
	}
	return nil
}

// TestInsist: a try that hangs is given up after half a second, one that is refused is repeated, and the context ends it all.
func TestInsist(t *testing.T) {
	f := flaky{tries: make(chan int, 1)}
	f.tries <- 0
	began := time.Now()
	if err := insist(t.Context(), f, 1); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the first try was given up too early: %s", took)
	}
	if n := <-f.tries; n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
	f.tries <- 1
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := insist(over, f, 7); err == nil || err.Error() != "store 7 accepts no write: no leader" {
		t.Errorf("after the end: %v", err)
	}
}

// mute is a system whose clients are never answered, or always refused.
type mute struct {
	named
	err error
}

func (m mute) client(int) (client, error) { return muteClient{err: m.err}, nil }

type muteClient struct{ err error }

func (muteClient) close() {}

func (mute) nodes() *processes { return &processes{} }

func (m muteClient) append(ctx context.Context, _, _ int, _ []byte) error {
	if m.err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return m.err
}

// TestLoad: a system that acknowledges nothing has failed; it is not a system that does 0 appends/s.
func TestLoad(t *testing.T) {
	row := newResult(topicAppends, "row", "x")
	for _, err := range []error{nil, errors.New("refused")} {
		_, got := load(t.Context(), mute{named{title: "A"}, err}, row, 2, 0, 1, 256, 20*time.Millisecond)
		want := "no answer"
		if err != nil {
			want = "refused"
		}
		if got == nil || !strings.HasSuffix(got.Error(), want) {
			t.Errorf("%v, want %s", got, want)
		}
	}
	if row.Errors["A"] == 0 {
		t.Error("refusals were not counted")
	}
}

func TestAll(t *testing.T) {
	began := 0
	err := all(100, 1, func(i int) error {
		began++
		if i == 3 {
			return errors.New("three")
		}
		return nil
	})
	if err == nil || err.Error() != "three" || began != 4 {
		t.Errorf("%v after %d", err, began)
	}
}

func TestMost(t *testing.T) {
	if node, share, err := most([]int{2, 5, 3}); node != 1 || share != 0.5 || err != nil {
		t.Error(node, share, err)
	}
	if _, _, err := most([]int{0, 0, 0}); err == nil {
		t.Error("nobody leads, and somebody was chosen")
	}
}
