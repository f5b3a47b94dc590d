package transport

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

const sender = "n1~a"

func ownHeader() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(sender), Addr: []byte(sender)}
}

// requests are one of each kind, and their extremes.
func requests() map[string]any {
	odd := raft.RPCHeader{ProtocolVersion: 1, ID: []byte("n9~z"), Addr: bytes.Repeat([]byte("x"), 300)}
	return map[string]any{
		"heartbeat": &raft.AppendEntriesRequest{RPCHeader: ownHeader(), Term: 7},
		"entries": &raft.AppendEntriesRequest{
			RPCHeader: ownHeader(), Term: 7, PrevLogEntry: 41, PrevLogTerm: 6, LeaderCommitIndex: 40,
			Entries: []*raft.Log{
				{Index: 42, Term: 6, Data: []byte("one"), AppendedAt: time.Unix(1700000000, 123456789)},
				{Index: 43, Term: 7, Type: raft.LogNoop},
				{Index: 44, Term: 7, Type: raft.LogConfiguration, Data: []byte("two"), Extensions: []byte("ext"), AppendedAt: time.Unix(-5, 7)},
			},
		},
		"gaps, falling terms and the largest numbers": &raft.AppendEntriesRequest{
			RPCHeader: odd, Term: math.MaxUint64, PrevLogEntry: math.MaxUint64, PrevLogTerm: math.MaxUint64, LeaderCommitIndex: math.MaxUint64,
			Entries: []*raft.Log{{Index: 9, Term: 3, Type: 255}, {Index: math.MaxUint64, Term: 1, Data: make([]byte, 70000)}},
		},
		"empty append":  &raft.AppendEntriesRequest{},
		"vote":          &raft.RequestVoteRequest{RPCHeader: ownHeader(), Term: 8, LastLogIndex: 44, LastLogTerm: 7, LeadershipTransfer: true},
		"empty vote":    &raft.RequestVoteRequest{},
		"pre-vote":      &raft.RequestPreVoteRequest{RPCHeader: ownHeader(), Term: 8, LastLogIndex: 44, LastLogTerm: 7},
		"timeout now":   &raft.TimeoutNowRequest{RPCHeader: odd},
		"empty timeout": &raft.TimeoutNowRequest{},
		"snapshot": &raft.InstallSnapshotRequest{
			RPCHeader: ownHeader(), SnapshotVersion: 1, Term: 9, Leader: []byte(sender), LastLogIndex: 100, LastLogTerm: 9, Peers: []byte("p"),
			Configuration: []byte("conf"), ConfigurationIndex: 3, Size: math.MaxInt64,
		},
	}
}

func replies() map[string]any {
	h := ownHeader()
	return map[string]any{
		"append": &raft.AppendEntriesResponse{RPCHeader: h, Term: 9, LastLog: 8, Success: true, NoRetryBackoff: true},
		"vote":   &raft.RequestVoteResponse{RPCHeader: h, Term: 9, Peers: []byte("p"), Granted: true}, "pre-vote": &raft.RequestPreVoteResponse{Term: 9, Granted: true},
		"timeout now": &raft.TimeoutNowResponse{RPCHeader: h}, "snapshot": &raft.InstallSnapshotResponse{RPCHeader: h, Term: math.MaxUint64, Success: true},
	}
}

// utc makes requests comparable: a time's zone does not travel.
func utc(req any) any {
	if m, ok := req.(*raft.AppendEntriesRequest); ok {
		for _, e := range m.Entries {
			if !e.AppendedAt.IsZero() {
				e.AppendedAt = e.AppendedAt.UTC()
			}
		}
	}
	return req
}

func decodeQuestion(b []byte) (op byte, group string, req any, err error) {
	d := decoder{b: b, sender: []byte(sender)}
	op, key := d.address()
	if d.err != nil {
		return op, "", nil, d.err
	}
	req, err = d.request(op)
	return op, string(key), req, err
}

func TestRequestsComeBackAsTheyWere(t *testing.T) {
	for name, want := range requests() {
		t.Run(name, func(t *testing.T) {
			raw, err := appendQuestion(nil, sender, "7-1", want)
			if err != nil {
				t.Fatal(err)
			}
			_, group, got, err := decodeQuestion(raw)
			if err != nil || group != "7-1" || !reflect.DeepEqual(utc(got), utc(want)) {
				t.Fatalf("got %q %+v, %v\nwant %+v", group, got, err, want)
			}
			step := max(1, len(raw)/500)
			for cut := 0; cut < len(raw); cut += step {
				if _, _, got, err := decodeQuestion(raw[:cut:cut]); !errors.Is(err, errMessage) {
					t.Fatalf("cut off after %d of %d bytes: got %+v, %v", cut, len(raw), got, err)
				}
			}
			if _, _, _, err := decodeQuestion(append(raw, 0)); !errors.Is(err, errMessage) {
				t.Fatalf("with a byte too many: %v", err)
			}
		})
	}
}

func TestRepliesComeBackAsTheyWere(t *testing.T) {
	for name, want := range replies() {
		t.Run(name, func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
			untouched := reflect.New(reflect.TypeOf(want).Elem()).Interface()
			raw := appendReply(nil, sender, want, nil)
			for cut := range raw {
				if err := (&decoder{b: raw[:cut:cut], sender: []byte(sender)}).reply(got); !errors.Is(err, errMessage) || !reflect.DeepEqual(got, untouched) {
					t.Fatalf("cut off after %d bytes: got %+v, %v", cut, got, err)
				}
			}
			if err := (&decoder{b: raw, sender: []byte(sender)}).reply(got); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v, %v, want %+v", got, err, want)
			}
			var remote *RemoteError
			raw = appendReply(nil, sender, want, errors.New("not me"))
			if err := (&decoder{b: raw}).reply(untouched); !errors.As(err, &remote) || remote.Text != "not me" {
				t.Fatalf("got %v, want raft's error", err)
			}
		})
	}
	raw := appendReply([]byte("before"), sender, nil, nil)
	if err := (&decoder{b: raw[6:]}).reply(new(raft.TimeoutNowResponse)); err == nil || !strings.Contains(err.Error(), "cannot be sent") {
		t.Fatalf("raft answers nothing: %v", err)
	}
}

// The form of the common message is part of the protocol: whoever changes it changes the version.
func TestTheHeartbeatIsShort(t *testing.T) {
	raw, _ := appendQuestion(nil, sender, "7-1", requests()["heartbeat"])
	if got, want := fmt.Sprintf("%x", raw), "0103372d310301010700000000"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

// A small message cannot make the receiver allocate without bounds: an entry takes some twenty times as much memory as the smallest takes here.
func TestMoreEntriesThanRaftSends(t *testing.T) {
	for n, ok := range map[int]bool{maxEntries: true, maxEntries + 1: false} {
		m := &raft.AppendEntriesRequest{RPCHeader: ownHeader(), Term: 7}
		for i := range n {
			m.Entries = append(m.Entries, &raft.Log{Index: uint64(i + 1), Term: 7})
		}
		raw, err := appendQuestion(nil, sender, "7-1", m)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := decodeQuestion(raw); (err == nil) != ok {
			t.Errorf("%d entries: %v", n, err)
		}
	}
}

// What is understood is encoded again to the bytes that were read.
func FuzzQuestion(f *testing.F) {
	for _, req := range requests() {
		raw, _ := appendQuestion(nil, sender, "7-1", req)
		if len(raw) < 1000 {
			f.Add(raw)
			f.Add(raw[:len(raw)/2])
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		_, group, req, err := decodeQuestion(in)
		if err != nil {
			return
		}
		out, err := appendQuestion(nil, sender, group, req)
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("read %x\nwrote %x, %v\n%+v", in, out, err, req)
		}
	})
}

func FuzzReply(f *testing.F) {
	kinds := []any{new(raft.AppendEntriesResponse), new(raft.RequestVoteResponse), new(raft.RequestPreVoteResponse), new(raft.TimeoutNowResponse), new(raft.InstallSnapshotResponse)}
	for _, r := range replies() {
		for i, k := range kinds {
			if reflect.TypeOf(k) == reflect.TypeOf(r) {
				f.Add(byte(i), appendReply(nil, sender, r, nil))
			}
		}
	}
	f.Add(byte(0), []byte{statusError, 'n', 'o'})
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		resp := reflect.New(reflect.TypeOf(kinds[int(kind)%len(kinds)]).Elem()).Interface()
		err := (&decoder{b: bytes.Clone(in), sender: []byte(sender)}).reply(resp)
		var remote *RemoteError
		if err != nil && !errors.As(err, &remote) {
			return
		}
		if remote != nil {
			resp, err = nil, remote
		}
		if out := appendReply(nil, sender, resp, err); !bytes.Equal(in, out) {
			t.Fatalf("read %x, wrote %x: %+v, %v", in, out, resp, err)
		}
	})
}
