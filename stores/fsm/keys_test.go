package fsm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// keysMachine drives keys of an FSM beside a Go map. It works below entries: keys are put by an applier, published or undone, and flushed, as ApplyBatch does.
type keysMachine struct {
	path  string
	f     *FSM
	model map[string]string
}

// modelKeys begin with letters that no kind of key has: Verify looks into those.
var modelKeys = []string{"X", "XX", "X\x00", "X\x00\xff", "Y", "Y\xff", "Y\xff\xff", "Z1", "Z10", "Z2", "\xff"}

func drawKey(t *rapid.T) string {
	if rapid.Bool().Draw(t, "known") {
		return rapid.SampledFrom(modelKeys).Draw(t, "key")
	}
	return rapid.StringMatching("[XY][X-Z]{0,3}").Draw(t, "other key")
}

func (m *keysMachine) open(t *rapid.T) {
	cfg := testConfig(m.path)
	cfg.OnFatal = func(err error) { t.Fatalf("OnFatal: %v", err) }
	cfg.OnDirty = func() {}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.f = f
}

// batch runs fn as a batch, which is published or undone.
func (m *keysMachine) batch(t *rapid.T, publish bool, fn func(a *applier) error) {
	leave, err := m.f.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	m.f.applying.Lock()
	defer m.f.applying.Unlock()
	m.f.mu.Lock()
	a := &m.f.applier
	a.f, a.st, a.frozen = m.f, m.f.state, m.f.frozen
	if m.f.active == nil {
		m.f.active = newOverlay(m.f.state)
	}
	a.o = m.f.active
	m.f.mu.Unlock()
	defer a.reset()
	if err := fn(a); err != nil {
		t.Fatal(err)
	}
	if !publish {
		a.o.undo()
		return
	}
	a.st.applied++
	m.f.publish(a)
}

// Change puts and drops keys in one batch, and looks at what the batch sees in between.
func (m *keysMachine) Change(t *rapid.T) {
	publish := rapid.IntRange(0, 3).Draw(t, "undo") > 0
	inside := make(map[string]string)
	for k, v := range m.model {
		inside[k] = v
	}
	m.batch(t, publish, func(a *applier) error {
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			key := drawKey(t)
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				was, err := a.dropKey(key)
				if _, want := inside[key]; was != want || err != nil {
					t.Fatalf("drop %q: was there %v, %v; want %v", key, was, err, want)
				}
				delete(inside, key)
			case 1:
				prefix, keep := rapid.SampledFrom([]string{"X", "Y", "XX"}).Draw(t, "dropped prefix"), rapid.IntRange(0, 2).Draw(t, "keep")
				n, err := a.dropKeys(prefix, "", keep)
				want := matching(inside, prefix, "")
				want = want[min(keep, len(want)):]
				if n != len(want) || err != nil {
					t.Fatalf("drop %q but %d: %d, %v; want %d", prefix, keep, n, err, len(want))
				}
				for _, key := range want {
					delete(inside, key)
				}
			default:
				value := rapid.StringN(0, 6, -1).Draw(t, "value")
				if err := a.putKey(key, []byte(value)); err != nil {
					return err
				}
				inside[key] = value
			}
			v, err := a.view(true)
			if err != nil {
				return err
			}
			m.compare(t, &v, inside)
		}
		return nil
	})
	if publish {
		m.model = inside
	}
	m.Look(t)
}

func matching(model map[string]string, prefix, from string) (keys []string) {
	for key := range model {
		if strings.HasPrefix(key, prefix) && key >= from {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// compare holds what a view has against the model: every key alone, and a stretch of them in order.
func (m *keysMachine) compare(t *rapid.T, v *view, model map[string]string) {
	for _, key := range append([]string{drawKey(t)}, modelKeys...) {
		got, err := v.key(key)
		want, there := model[key]
		if err != nil || (got != nil) != there && !(there && want == "") || string(got) != want {
			t.Fatalf("key %q is %q, %v; want %q, %v", key, got, err, want, there)
		}
	}
	prefix, limit := rapid.SampledFrom([]string{"", "X", "Y", "Y\xff", "Z1", "W"}).Draw(t, "prefix"), rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "limit")
	from := ""
	if rapid.Bool().Draw(t, "from there") {
		from = drawKey(t)
	}
	want := matching(model, prefix, from)
	want = want[:min(limit, len(want))]
	var got []string
	err := v.scan(prefix, from, func(key string, sealed []byte) (bool, error) {
		value, err := unseal([]byte(key), sealed)
		if string(value) != model[key] {
			t.Fatalf("scan: key %q is %q, want %q", key, value, model[key])
		}
		got = append(got, key)
		return len(got) < limit, err
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("scan %q from %q: %q, %v; want %q", prefix, from, got, err, want)
	}
	if v.st.keys != uint64(len(model)) {
		t.Fatalf("%d keys are counted, want %d", v.st.keys, len(model))
	}
}

// Look reads what is published.
func (m *keysMachine) Look(t *rapid.T) {
	if err := m.f.view(func(v *view) error {
		m.compare(t, v, m.model)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Flush looks and changes at a step of it: keys are then in all three layers.
func (m *keysMachine) Flush(t *rapid.T) {
	at := rapid.SampledFrom([]string{"frozen", "written", "committed", "dropped", ""}).Draw(t, "at")
	m.f.hookStep = func(step string) error {
		if step == at {
			m.Look(t)
			m.Change(t)
		}
		return nil
	}
	defer func() { m.f.hookStep = nil }()
	if err := m.f.Flush(); err != nil {
		t.Fatal(err)
	}
	m.Look(t)
}

// Old views stay what they are, whatever is done meanwhile.
func (m *keysMachine) OldView(t *rapid.T) {
	was := m.model
	if err := m.f.view(func(v *view) error {
		m.Change(t)
		if rapid.Bool().Draw(t, "flush") {
			if err := m.f.Flush(); err != nil {
				return err
			}
			m.Change(t)
		}
		m.compare(t, v, was)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func (m *keysMachine) Reopen(t *rapid.T) {
	if err := m.f.Verify(); err != nil {
		t.Fatal(err)
	}
	before, err := m.f.Hash()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.f.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
	after, err := m.f.Hash()
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("reopening changed the state, %v", err)
	}
	m.Look(t)
}

// TestKeysModel does random things to keys and to a map, and holds the two together.
func TestKeysModel(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := &keysMachine{path: filepath.Join(dir, fmt.Sprint(n)), model: make(map[string]string)}
		m.open(t)
		defer func() {
			m.f.Close()
			os.Remove(m.path)
		}()
		t.Repeat(map[string]func(*rapid.T){
			"change": m.Change, "change ": m.Change, "look": m.Look, "flush": m.Flush, "old view": m.OldView, "reopen": m.Reopen,
		})
	})
}
