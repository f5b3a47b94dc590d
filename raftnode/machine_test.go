package raftnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// lines is a Machine: the list of all commands. It lives in a file when it has a path, written at each batch.
type lines struct {
	path string

	mu       sync.Mutex // guards what follows
	state    linesState
	changed  chan struct{}
	restores int
	refuse   error // what Restore returns
}

type linesState struct {
	Index, Term uint64
	Lines       []string
}

var _ Machine = (*lines)(nil)

func openLines(t testing.TB, path string) *lines {
	t.Helper()
	m := &lines{path: path, changed: make(chan struct{})}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &m.state)
	}
	if path != "" && err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return m
}

func (m *lines) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *lines) ApplyBatch(logs []*raft.Log) []any {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type != raft.LogCommand || l.Index <= m.state.Index {
			continue
		}
		m.state.Index, m.state.Term = l.Index, l.Term
		m.state.Lines = append(m.state.Lines, string(l.Data))
		out[i] = len(m.state.Lines)
	}
	m.save()
	return out
}

func (m *lines) save() {
	if m.path != "" {
		if err := WriteJSON(m.path, m.state); err != nil {
			panic(err)
		}
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *lines) Applied() (uint64, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Index, m.state.Term
}

func (m *lines) WaitApplied(ctx context.Context, index uint64) error {
	return m.wait(ctx, func(s linesState) bool { return s.Index >= index })
}

func (m *lines) wait(ctx context.Context, ok func(linesState) bool) error {
	for {
		m.mu.Lock()
		done, changed := ok(m.state), m.changed
		m.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *lines) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.state.Lines)
}

// OpenSnapshot streams a digest and the state.
func (m *lines) OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, err := json.Marshal(m.state)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	sum := sha256.Sum256(raw)
	raw = append(sum[:], raw...)
	return m.state.Index, m.state.Term, int64(len(raw)), io.NopCloser(bytes.NewReader(raw)), nil
}

// Bytes returns the length of the lines.
func (m *lines) Bytes() (n int64, err error) {
	for _, l := range m.all() {
		n += int64(len(l))
	}
	return n, nil
}

func (m *lines) Snapshot() (raft.FSMSnapshot, error) { return markerOnly{}, nil }

type markerOnly struct{}

func (markerOnly) Persist(raft.SnapshotSink) error { return nil }
func (markerOnly) Release()                        {}

var errBadStream = errors.New("the snapshot's digest is wrong")

func (m *lines) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restores++
	if m.refuse != nil {
		return m.refuse
	}
	if len(raw) < sha256.Size {
		return errBadStream
	}
	if sum := sha256.Sum256(raw[sha256.Size:]); !bytes.Equal(sum[:], raw[:sha256.Size]) {
		return errBadStream
	}
	var s linesState
	if err := json.Unmarshal(raw[sha256.Size:], &s); err != nil {
		return err
	}
	m.state = s
	m.save()
	return nil
}

func (m *lines) restored() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restores
}

// streamOf returns what OpenSnapshot of a machine with the state gives.
func streamOf(t testing.TB, index, term uint64, text ...string) []byte {
	t.Helper()
	m := &lines{state: linesState{Index: index, Term: term, Lines: text}}
	_, _, size, rc, err := m.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(rc)
	if int64(len(raw)) != size {
		t.Fatal(fmt.Errorf("size %d of %d bytes", size, len(raw)))
	}
	return raw
}

func exists(dir, name string) bool {
	found, err := filepath.Glob(filepath.Join(dir, name))
	return err == nil && len(found) > 0
}

// incoming returns the one received file in the directory.
func incoming(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, incomingPattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("received files: %v %v, want one", found, err)
	}
	return found[0]
}
