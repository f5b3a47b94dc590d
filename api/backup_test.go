package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// TestBackupPages: what is put on a page comes back, whatever else stands on it; digests do not depend on how events are cut into pages, and on everything else.
func TestBackupPages(t *testing.T) {
	var events []BackupEvent
	for i := range 50 {
		events = append(events, BackupEvent{Position: uint64(i + 7), Stream: fmt.Sprint("s", i%3), Version: uint64(i / 3), Time: int64(i) - 20, Body: bytes.Repeat([]byte{byte(i)}, i)})
	}
	digest := func(perPage int) (d Digest) {
		t.Helper()
		var h Digester
		for from := 0; from < len(events); from += perPage {
			var p BackupEvents
			part := events[from:min(from+perPage, len(events))]
			for i := range part {
				p.Add(&part[i])
			}
			got, err := DecodeBackupEvents(p.Encode())
			if err != nil || fmt.Sprint(got) != fmt.Sprint(part) || p.Count() != len(part) {
				t.Fatalf("%v: got %v, want %v", err, got, part)
			}
			for i := range got {
				d = h.Event(d, &got[i])
			}
		}
		return d
	}
	want := digest(50)
	for _, perPage := range []int{1, 7, 49} {
		if got := digest(perPage); got != want {
			t.Errorf("%d events a page: the digest is %x, wanted %x", perPage, got, want)
		}
	}
	var h Digester
	one := events[9]
	for name, alter := range map[string]func(*BackupEvent){
		"position": func(e *BackupEvent) { e.Position++ }, "stream": func(e *BackupEvent) { e.Stream += "x" }, "version": func(e *BackupEvent) { e.Version++ },
		"time": func(e *BackupEvent) { e.Time++ }, "body": func(e *BackupEvent) { e.Body = append(bytes.Clone(e.Body), 0) },
	} {
		other := one
		alter(&other)
		if h.Event(Digest{}, &other) == h.Event(Digest{}, &one) {
			t.Errorf("another %s has the same digest", name)
		}
	}
	raw, err := json.Marshal(RestoreRequest{EventsDigest: want})
	var back RestoreRequest
	if err == nil {
		err = json.Unmarshal(raw, &back)
	}
	if err != nil || back.EventsDigest != want || !back.KeysDigest.zero() {
		t.Errorf("%s: %v", raw, err)
	}
}

func (d Digest) zero() bool { return d == Digest{} }

func FuzzBackupPages(f *testing.F) {
	var events BackupEvents
	events.Add(&BackupEvent{Position: 3, Stream: "s", Version: 1, Time: 5, Body: []byte("body")})
	events.Add(&BackupEvent{Position: 4, Stream: "t", Version: 0, Time: 6})
	f.Add(events.Encode())
	keys := BackupKeys{First: 2}
	keys.Add([]byte("k"), []byte("value"))
	f.Add(keys.Encode())
	f.Fuzz(func(t *testing.T, page []byte) {
		if list, err := DecodeBackupEvents(page); err == nil {
			var again BackupEvents
			for i := range list {
				again.Add(&list[i])
			}
			back, err := DecodeBackupEvents(again.Encode())
			if err != nil || fmt.Sprint(back) != fmt.Sprint(list) {
				t.Errorf("%v: %v became %v", err, list, back)
			}
		}
		if first, list, err := DecodeBackupKeys(page); err == nil {
			again := BackupKeys{First: first}
			for i := range list {
				again.Add(list[i].Key, list[i].Value)
			}
			at, back, err := DecodeBackupKeys(again.Encode())
			if err != nil || at != first || fmt.Sprint(back) != fmt.Sprint(list) {
				t.Errorf("%v: %v became %v", err, list, back)
			}
		}
	})
}
