package natsbus

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/cluster"
)

// hellos is a directory's peers: whom the test has say something.
type hellos struct{ hear func([]byte) }

func (h *hellos) SendHello([]byte) error        { return nil }
func (h *hellos) OnHello(fn func([]byte)) error { h.hear = fn; return nil }

// among is a bus whose node is the first of the members; the others are up.
func among(t *testing.T, members ...string) *Bus {
	t.Helper()
	b, dir := alone(t), t.TempDir()
	sum := sha256.Sum256([]byte(strings.Join(members, "\n")))
	plan := cluster.Plan{Cluster: hex.EncodeToString(sum[:8]), Members: members}
	raw, err := json.Marshal(plan)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cluster.json"), fmt.Appendf(nil, `{"format":1,"state":"formed","plan":%s}`, raw), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := cluster.Load(cluster.Config{Dir: dir, Name: "n1", ServerID: members[0]})
	if err != nil {
		t.Fatal(err)
	}
	var peers hellos
	if err := d.Start(&peers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	for _, id := range members[1:] {
		raw, err := json.Marshal(cluster.Hello{Name: id, ServerID: id, State: cluster.Formed, Plan: plan})
		if err != nil {
			t.Fatal(err)
		}
		peers.hear(raw)
	}
	b.cfg.ServerID = members[0]
	b.backend.Store(&Backend{Directory: d})
	return b
}

// Members that have just hung, and still count as up, are waited for for a moment, all together, and those that answer count.
func TestMembersThatHangAreLeftOut(t *testing.T) {
	b := among(t, "n1~a", "n2~b", "n3~c", "n4~d", "n5~e")
	for id, answer := range map[string]string{"n2~b": "", "n3~c": answerYes, "n4~d": ""} { // there is no n5
		if _, err := b.peers.Subscribe(nodeSubject(id, subjectRoutes), func(m *nats.Msg) {
			if answer != "" {
				m.Respond([]byte(answer))
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if yes := b.askOthers(t.Context(), subjectRoutes, storeQuestion{"orders", 1}); yes != 1 {
		t.Errorf("%d have said yes", yes)
	}
	if took := time.Since(began); took < silentFor || took > slowFor {
		t.Errorf("it took %v", took)
	}
}
