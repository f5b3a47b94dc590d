package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// TestRestoreRefusesForgedPages: what no store can have written is refused, the same on every replica, and changes nothing.
func TestRestoreRefusesForgedPages(t *testing.T) {
	f := openNew(t)
	if _, err := take(t, f, &RestoreChange{Op: RestoreBegin, Restore: "r"}); err != nil {
		t.Fatal(err)
	}
	body := func(id string) []byte { e := ev(id); return e.encode(nil) }
	page := func(events ...api.BackupEvent) []byte {
		var p api.BackupEvents
		for i := range events {
			events[i].Position = uint64(i + 1)
			p.Add(&events[i])
		}
		return p.Encode()
	}
	whole := page(api.BackupEvent{Stream: "s", Body: body("a")})
	keys := func(key string) []byte {
		var p api.BackupKeys
		p.Add([]byte(key), []byte("v"))
		return p.Encode()
	}
	before := dumpWithKeys(t, f)
	for name, c := range map[string]*RestoreChange{
		"version":       {Op: RestoreEvents, Page: page(api.BackupEvent{Stream: "s", Body: body("a")}, api.BackupEvent{Stream: "s", Version: 2, Body: body("b")})},
		"stream":        {Op: RestoreEvents, Page: page(api.BackupEvent{Stream: "s t", Body: body("a")})},
		"body":          {Op: RestoreEvents, Page: page(api.BackupEvent{Stream: "s", Body: body("a")[1:]})},
		"cut off":       {Op: RestoreEvents, Page: whole[:len(whole)-1]},
		"longer":        {Op: RestoreEvents, Page: append(whole[:len(whole):len(whole)], 0)},
		"nothing":       {Op: RestoreEvents},
		"reserved key":  {Op: RestoreKeys, Page: keys("z")},
		"empty key":     {Op: RestoreKeys, Page: keys("")},
		"long key":      {Op: RestoreKeys, Page: keys(strings.Repeat("k", maxKey+1))},
		"other restore": {Op: RestoreEvents, Restore: "other", Page: whole},
	} {
		if c.Restore == "" {
			c.Restore = "r"
		}
		if _, err := take(t, f, c); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if dumpWithKeys(t, f) != before {
		t.Error("something was written")
	}
	if r, err := take(t, f, &RestoreChange{Op: RestoreEvents, Restore: "r", Page: whole}); err != nil || r.Position != 1 {
		t.Errorf("the whole page: %+v, %v", r, err)
	}
}

// What is in a page may be made up. An event that nobody could have appended is refused before anything is written; a type of 40,000 bytes ended every replica with the
// flush, and again after each start.
func TestRestoreRefusesEventsThatNobodyCouldAppend(t *testing.T) {
	good := EventRecord{ID: "id", Type: "T", Tags: []string{"a:b"}, JSON: true, Data: []byte(`{"x":1}`), Metadata: []byte(`{"m":1}`)}
	for _, row := range []struct {
		name  string
		spoil func(e *EventRecord)
		fine  bool
	}{
		{"as it should be", func(*EventRecord) {}, true},
		{"bytes that are not JSON and do not say so", func(e *EventRecord) { e.JSON, e.Data = false, []byte{0, 1} }, true},
		{"no data", func(e *EventRecord) { e.JSON, e.Data, e.Metadata = false, nil, nil }, true},
		{"a type that is too long for a key", func(e *EventRecord) { e.Type = strings.Repeat("x", 40_000) }, false},
		{"no type", func(e *EventRecord) { e.Type = "" }, false},
		{"no id", func(e *EventRecord) { e.ID = "" }, false},
		{"a tag with a line feed", func(e *EventRecord) { e.Tags = []string{"a\nb"} }, false},
		{"too many tags", func(e *EventRecord) { e.Tags = slices.Repeat([]string{"t"}, api.MaxTags+1) }, false},
		{"data that is not the JSON it says it is", func(e *EventRecord) { e.Data = []byte(`{"x":`) }, false},
		{"metadata that is not an object", func(e *EventRecord) { e.Metadata = []byte(`3`) }, false},
		{"metadata that is not JSON", func(e *EventRecord) { e.Metadata = []byte(`{`) }, false},
		{"too much data", func(e *EventRecord) { e.JSON, e.Data = false, make([]byte, api.MaxEventData+1) }, false},
	} {
		f := openNew(t)
		if _, err := take(t, f, &RestoreChange{Op: RestoreBegin, Restore: "r"}); err != nil {
			t.Fatal(err)
		}
		e := good
		row.spoil(&e)
		var page api.BackupEvents
		page.Add(&api.BackupEvent{Position: 1, Stream: "s", Time: testTime, Body: e.encode(nil)})
		_, refused := take(t, f, &RestoreChange{Op: RestoreEvents, Restore: "r", Page: page.Encode()})
		if (refused == nil) != row.fine || refused != nil && !errors.Is(refused, api.ErrRestoreRefused) {
			t.Errorf("%s: %v", row.name, refused)
		}
		if err := errors.Join(f.Flush(), f.Verify()); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// What apply lets pass, the leader refuses before it proposes: keys that end every replica when they are needed, and what makes pages that cannot be read. Whatever a store may have passes.
func TestLeaderRefusesForgedPages(t *testing.T) {
	const late = 1 << 60 // µs, far behind the year 9999
	event := func(time int64) *RestoreChange {
		e := ev("a")
		var page api.BackupEvents
		page.Add(&api.BackupEvent{Position: 1, Stream: "s", Time: time, Body: e.encode(nil)})
		return &RestoreChange{Op: RestoreEvents, Page: page.Encode()}
	}
	key := func(key string, value []byte) *RestoreChange {
		var page api.BackupKeys
		page.Add([]byte(key), value)
		return &RestoreChange{Op: RestoreKeys, Page: page.Encode()}
	}
	snapshot := func(time int64, c SnapshotChange) []byte { return c.encodeBody(binary.AppendVarint(nil, time)) }
	parked := func(time int64) []byte { return appendBytes(binary.AppendVarint([]byte{3}, time), "why") }
	config := func(time int64) []byte { return appendBytes(binary.AppendVarint([]byte{1}, time), "{}") }
	custom := func(text string) []byte { return (&streamState{custom: []byte(text)}).encode(nil) }
	for _, r := range []struct {
		name string
		c    *RestoreChange
		fine bool
	}{
		{"an event", event(testTime), true},
		{"an event before 1970", event(-testTime), true},
		{"an event far in the future", event(late), false},
		{"an event far in the past", event(-late), false},
		{"the last id of a subscription", key("u", binary.AppendUvarint(nil, 7)), true},
		{"one that cannot be read", key("u", []byte{0x80}), false},
		{"none", key("u", nil), false},
		{"one with something behind it", key("u", []byte{1, 1}), false},
		{"one behind which there is none", key("u", binary.AppendUvarint(nil, math.MaxUint64)), false},
		{"a subscription", key("umail", config(testTime)), true},
		{"one created far in the future", key("umail", config(late)), false},
		{"one of no possible name", key("umail\x00x", config(testTime)), false},
		{"progress of no name", key("w", []byte{1}), false},
		{"a parked event", key(parkedKey("mail", 1), parked(testTime)), true},
		{"one that cannot be read", key(parkedKey("mail", 1), []byte{0x80}), false},
		{"one parked far in the future", key(parkedKey("mail", 1), parked(late)), false},
		{"one without a position", key("pmail\x00", parked(testTime)), false},
		{"a snapshot", key(snapshotKey("s", 1), snapshot(testTime, SnapshotChange{JSON: true, Data: []byte(`{}`)})), true},
		{"one that is bytes", key(snapshotKey("s", 1), snapshot(testTime, SnapshotChange{Data: []byte{0}})), true},
		{"one that is not the JSON it says it is", key(snapshotKey("s", 1), snapshot(testTime, SnapshotChange{JSON: true, Data: []byte{0}})), false},
		{"one of far in the future", key(snapshotKey("s", 1), snapshot(late, SnapshotChange{})), false},
		{"one of no stream", key(snapshotKey("", 1), snapshot(testTime, SnapshotChange{})), false},
		{"metadata of a stream", key(streamKey("s"), custom(`{"a":1}`)), true},
		{"metadata that is not JSON", key(streamKey("s"), custom(`{`)), false},
		{"metadata of no stream", key(streamKey("s t"), custom(`{}`)), false},
	} {
		if err := r.c.Check(); (err == nil) != r.fine || err != nil && !errors.Is(err, api.ErrRestoreRefused) {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	b := backUp(t, filledWithAll(t), "r", 500)
	for _, c := range append(b.events, b.keys...) {
		if err := c.Check(); err != nil {
			t.Errorf("a page of a backup: %v", err)
		}
	}
}

// FuzzRestoreChange: a step is read as it was written, and nothing that cannot be read ends the program, also as a page.
func FuzzRestoreChange(f *testing.F) {
	var events api.BackupEvents
	e := ev("a")
	events.Add(&api.BackupEvent{Position: 1, Stream: "s", Time: testTime, Body: e.encode(nil)})
	for _, c := range []*RestoreChange{{Op: RestoreBegin, Restore: "r"}, {Op: RestoreEvents, Restore: "r", Page: events.Encode()}, {Op: RestoreEnd, Restore: "r", Events: 1, Keys: 300, KeysDigest: api.Digest{7}}} {
		f.Add(c.encode(nil))
	}
	machine := openNew(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := reader{rest: body}
		c := decodeRestoreChange(&r)
		if r.end() != nil {
			return
		}
		again := reader{rest: c.encode(nil)}
		if back := decodeRestoreChange(&again); again.end() != nil || fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", c) {
			t.Fatalf("%+v became %+v", c, back)
		}
		applied, _ := machine.Applied()
		if res, ok := machine.Apply(&raft.Log{Index: applied + 1, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{{kindRestore, body}})}).(Result); !ok || len(res.Append) != 1 {
			t.Fatalf("a step is answered %+v", res)
		}
	})
}
