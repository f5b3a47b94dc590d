package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// allEvents reads the store as JSON lines, up to the position; 0: all.
func allEvents(t *testing.T, cl *client.Client, store string, upTo uint64) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	var lines []string
	last := uint64(0)
	for e, err := range cl.Store(store).ReadAll(ctx, client.ReadOptions{PageSize: 5000}) {
		if err != nil {
			t.Fatalf("read %s: %v", store, err)
		}
		if upTo > 0 && e.Position > upTo {
			break
		}
		if e.Position <= last {
			t.Fatalf("read %s: event %d stands behind event %d", store, e.Position, last)
		}
		last = e.Position
		raw, err := api.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(raw))
	}
	return lines
}

func sameEvents(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: there are %d events, wanted %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: event %d is %.200s, wanted %.200s", what, i+1, got[i], want[i])
			return
		}
	}
}

// load appends to several streams of the store, of all sorts of data, and keeps snapshots, until stop is closed. It returns how many events were acknowledged.
func load(t *testing.T, c *testcluster.Cluster, store string, stop <-chan struct{}) (wait func() (events int)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for w := range 4 {
		cl := c.Client().Store(store)
		nc := c.Connect()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
			defer cancel()
			stream := fmt.Sprint("w", w)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				res, err := cl.Append(ctx, stream, []api.NewEvent{
					{Type: "Json", Data: []byte(fmt.Sprintf(`{"n":%d,"text":"<&>"}`, n)), Tags: []string{"w:" + stream, "all"}, Metadata: []byte(`{"by":"load"}`)},
					{Type: "Bytes", DataBase64: []byte{0, 255, byte(n)}},
				}, client.Any)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				if n%10 == 0 {
					if _, failed := request[api.Reply](t, nc, "es."+store+".write.snapshot."+stream, fmt.Sprintf(`{"version":%d,"data":{"n":%d},"keep":5}`, res.Version, n)); failed != nil {
						t.Errorf("snapshot: %v", failed)
					}
				}
				mu.Lock()
				total += 2
				mu.Unlock()
			}
		})
	}
	return func() int { wg.Wait(); return total }
}

// TestBackup: a backup that is taken while the store is written to is its state at one position, with all that was acknowledged before it began; it can be restored under another name and into
// another cluster, and what is not a whole backup is refused before anything is written.
func TestBackup(t *testing.T) {
	c := testcluster.Start(t, 3)
	other := testcluster.Start(t, 1)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	beside(t, c.Connect())
	stop := make(chan struct{})
	wait := load(t, c, "orders", stop)
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	var before *api.StoreInfoResponse
	testcluster.Eventually(t, "there is something to back up", func() (err error) {
		if before, err = cl.Store("orders").Info(ctx); err == nil && before.Events < 500 {
			err = fmt.Errorf("%d events", before.Events)
		}
		return err
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "orders.backup")
	stdout, stderr, code := quorate(t, c, "", "backup", "orders", file)
	if code != 0 || !strings.Contains(stdout, "is backed up to") {
		t.Fatalf("backup: exit code %d, %s%s", code, stdout, stderr)
	}
	during, err := cl.Store("orders").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	close(stop)
	acked := uint64(wait())
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := client.OpenBackup(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	sum := backup.Summary
	if sum.Position < before.LastPosition || sum.Position > during.LastPosition || sum.Keys == 0 {
		t.Errorf("the backup is of position %d with %d keys; the store was at %d before it and at %d after it", sum.Position, sum.Keys, before.LastPosition, during.LastPosition)
	}
	if acked <= sum.Position {
		t.Errorf("%d events were appended in all and %d are in the backup: it was not taken under load", acked, sum.Position)
	}
	want := allEvents(t, cl, "orders", sum.Position)

	notWhole(t, c, other, dir, raw)

	if stdout, stderr, code := quorate(t, c, "", "restore", "copy", file); code != 0 || !strings.Contains(stdout, "copy is restored from store orders") {
		t.Fatalf("restore: exit code %d, %s%s", code, stdout, stderr)
	}
	if _, stderr, code := quorate(t, other, string(raw), "restore", "orders", "-"); code != 0 {
		t.Fatalf("restore into another cluster: exit code %d, %s", code, stderr)
	}
	sameEvents(t, "another name", allEvents(t, cl, "copy", 0), want)
	sameEvents(t, "another cluster", allEvents(t, other.Client(), "orders", 0), want)
	for _, at := range []*nats.Conn{c.Connect(), other.Connect()} {
		store := "copy"
		if at.ConnectedAddr() == other.Nodes[0].NATS {
			store = "orders"
		}
		list, failed := request[api.SnapshotsResponse](t, at, "es."+store+".read.snapshots.w1", ``)
		if failed != nil || len(list.Snapshots) == 0 {
			t.Errorf("snapshots of %s: %v %+v", store, failed, list)
		}
		stillBeside(t, at, store)
		res, failed := request[api.AppendResponse](t, at, "es."+store+".write.append.w1", `{"events":[{"type":"After"}],"expected_version":-4}`)
		if failed != nil || res.Position != sum.Position+2 {
			t.Errorf("the first append to %s: %v %+v", store, failed, res)
		}
	}
	if stdout, stderr, code := quorate(t, c, "", "restore", "copy", file); code != 0 || !strings.Contains(stdout, "copy was restored from this backup before") { // the same again
		t.Errorf("restore again: exit code %d, %s%s", code, stdout, stderr)
	}
	if _, stderr, code := quorate(t, c, "", "restore", "orders", file); code != 1 || !strings.Contains(stderr, "store_not_empty:") {
		t.Errorf("restore over a store: exit code %d, %s", code, stderr)
	}
	if _, _, code := quorate(t, c, "", "backup", "orders", file); code != 2 {
		t.Errorf("backup over a file: exit code %d", code)
	}
	exportImport(t, c, cl, sum.Position)
}

// notWhole: damaged, truncated, lengthened and foreign files are refused, and no store is created.
func notWhole(t *testing.T, c, other *testcluster.Cluster, dir string, raw []byte) {
	t.Helper()
	damaged := 0
	for i := 0; i < len(raw); i += max(1, len(raw)/200) {
		flipped := bytes.Clone(raw)
		flipped[i] ^= 1 << (i % 8)
		if _, err := client.OpenBackup(bytes.NewReader(flipped), int64(len(flipped))); !errors.Is(err, client.ErrNotBackup) {
			t.Errorf("byte %d of %d is flipped, and the backup is taken for whole: %v", i, len(raw), err)
		}
		damaged++
	}
	for _, n := range []int{0, 1, 100, len(raw) / 2, len(raw) - 100, len(raw) - 1} {
		if _, err := client.OpenBackup(bytes.NewReader(raw[:n]), int64(n)); !errors.Is(err, client.ErrNotBackup) {
			t.Errorf("%d of %d bytes are taken for a whole backup: %v", n, len(raw), err)
		}
	}
	if damaged < 100 {
		t.Errorf("only %d bytes were flipped", damaged)
	}
	for name, content := range map[string][]byte{
		"truncated": raw[:len(raw)-1000], "longer": append(bytes.Clone(raw), '\n'), "foreign": []byte("{\"stream\":\"a\"}\n"), "flipped": append(append(bytes.Clone(raw[:len(raw)/2]), raw[len(raw)/2]^4), raw[len(raw)/2+1:]...),
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stderr, code := quorate(t, c, "", "restore", "bad-"+name, file); code != 1 || !strings.Contains(stderr, "not a whole backup") {
			t.Errorf("%s: exit code %d, %s", name, code, stderr)
		}
		if _, failed := request[api.Reply](t, c.Connect(), "es.config.read.get.bad-"+name, ``); wantError(failed, api.ErrConfigNotFound) != nil {
			t.Errorf("%s: the store is there: %v", name, failed)
		}
	}
}

// exportImport: NDJSON out of one store and into another keeps order, ids, types, data, metadata and tags; importing it again changes nothing.
func exportImport(t *testing.T, c *testcluster.Cluster, cl *client.Client, atLeast uint64) {
	t.Helper()
	ndjson, stderr, code := quorate(t, c, "", "export", "orders")
	if code != 0 || uint64(strings.Count(ndjson, "\n")) < atLeast-10 {
		t.Fatalf("export: exit code %d, %d lines, %s", code, strings.Count(ndjson, "\n"), stderr)
	}
	c.CreateStore(cl, "imported")
	lines := strings.SplitAfter(ndjson, "\n")
	half := strings.Join(lines[:len(lines)/2+7], "") // an import that was cut off, elsewhere than where a batch ends
	for _, in := range []string{half, ndjson, ndjson} {
		if stdout, stderr, code := quorate(t, c, in, "import", "imported"); code != 0 {
			t.Fatalf("import: exit code %d, %s%s", code, stdout, stderr)
		}
	}
	again, _, _ := quorate(t, c, "", "export", "imported")
	got, want := strings.Split(again, "\n"), strings.Split(ndjson, "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines were imported of %d", len(got), len(want))
	}
	for i := range got {
		if g, w := kept(got[i]), kept(want[i]); g != w {
			t.Fatalf("line %d is %s, wanted %s", i+1, g, w)
		}
	}
	if _, stderr, code := quorate(t, c, `{"stream":"x","type":"T","colour":1}`, "import", "imported"); code != 1 || !strings.Contains(stderr, `"colour"`) {
		t.Errorf("an unknown field: exit code %d, %s", code, stderr)
	}
}

// kept is what an import keeps of an exported line.
func kept(line string) string {
	var e api.Event
	if json.Unmarshal([]byte(line), &e) != nil {
		return line
	}
	e.Position, e.Version, e.Time = 0, 0, time.Time{}
	raw, err := api.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// beside makes what a store has beside its events: streams that are cut, deleted and deleted for ever, and snapshots that fill several pages of a backup.
func beside(t *testing.T, nc *nats.Conn) {
	t.Helper()
	must := func(subject, payload string) {
		t.Helper()
		if _, failed := request[api.Reply](t, nc, subject, payload); failed != nil {
			t.Fatalf("%s: %v", subject, failed)
		}
	}
	for _, stream := range []string{"cut", "gone", "tomb", "big"} {
		must("es.orders.write.append."+stream, `{"events":[{"type":"A","data":1},{"type":"B","data":2},{"type":"C","data":3}]}`)
	}
	must("es.orders.write.subscription.create.mail", `{"query":{"items":[{"types":["B"]}]}}`)
	batch, failed := request[api.SubscriptionFetchResponse](t, nc, "es.orders.write.subscription.fetch.mail", `{"limit":3,"wait_ms":5000}`)
	if failed != nil || len(batch.Events) != 3 {
		t.Fatalf("fetch: %v %+v", failed, batch)
	}
	must("es.orders.write.subscription.ack.mail", fmt.Sprintf(`{"positions":[%d,%d]}`, batch.Events[0].Position, batch.Events[2].Position))
	must("es.orders.write.subscription.nack.mail", fmt.Sprintf(`{"positions":[%d],"park":true,"reason":"test"}`, batch.Events[1].Position))
	must("es.orders.write.truncate.cut", `{"before":2}`)
	must("es.orders.write.metadata.cut", `{"max_count":100,"custom":{"owner":"tea"}}`)
	must("es.orders.write.delete.gone", ``)
	must("es.orders.write.delete.tomb", `{"hard":true}`)
	for version := range 3 {
		must("es.orders.write.snapshot.big", fmt.Sprintf(`{"version":%d,"data":"%s"}`, version, strings.Repeat(fmt.Sprint(version), 700_000)))
	}
}

func stillBeside(t *testing.T, nc *nats.Conn, store string) {
	t.Helper()
	read, failed := request[api.ReadResponse](t, nc, "es."+store+".read.stream.cut", ``)
	if failed != nil || len(read.Events) != 1 || read.Events[0].Version != 2 {
		t.Errorf("%s: the stream that was cut: %v %+v", store, failed, read)
	}
	meta, failed := request[api.StreamStateResponse](t, nc, "es."+store+".read.metadata.cut", ``)
	if failed != nil || meta.MaxCount != 100 || string(meta.Custom) != `{"owner":"tea"}` {
		t.Errorf("%s: metadata: %v %+v", store, failed, meta)
	}
	if _, failed := request[api.Reply](t, nc, "es."+store+".read.stream.gone", ``); wantError(failed, api.ErrStreamNotFound) != nil {
		t.Errorf("%s: the deleted stream: %v", store, failed)
	}
	if res, failed := request[api.AppendResponse](t, nc, "es."+store+".write.append.gone", `{"events":[{"id":"back","type":"Back"}]}`); failed != nil || res.Version != 3 {
		t.Errorf("%s: the deleted stream comes back: %v %+v", store, failed, res)
	}
	if _, failed := request[api.Reply](t, nc, "es."+store+".write.append.tomb", `{"events":[{"type":"T"}]}`); wantError(failed, api.ErrStreamDeleted) != nil {
		t.Errorf("%s: the stream that was deleted for ever: %v", store, failed)
	}
	mail, failed := request[api.SubscriptionInfo](t, nc, "es."+store+".read.subscription.mail", ``)
	if failed != nil || mail.Acked != 2 || mail.Parked != 1 || mail.Cursor < 8 || mail.Config.Query == nil {
		t.Errorf("%s: the subscription: %v %+v", store, failed, mail)
	}
	batch, failed := request[api.SubscriptionFetchResponse](t, nc, "es."+store+".write.subscription.fetch.mail", `{"limit":10,"wait_ms":5000}`)
	if failed != nil || len(batch.Events) != 1 || batch.Events[0].Stream != "big" {
		t.Errorf("%s: the subscription goes on: %v %+v", store, failed, batch)
	}
	for version := range 3 {
		one, failed := request[api.SnapshotResponse](t, nc, "es."+store+".read.snapshot.big", fmt.Sprintf(`{"at":%d}`, version))
		if want := `"` + strings.Repeat(fmt.Sprint(version), 700_000) + `"`; failed != nil || string(one.Snapshot.Data) != want {
			t.Errorf("%s: the big snapshot %d: %v", store, version, failed)
		}
	}
}

// TestRestoreSurvivesItsLeader: the leader dies in the middle of a restore, which goes on with the next one. Meanwhile the store takes nothing else, and does not pass for a whole one.
func TestRestoreSurvivesItsLeader(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	const events = 30_000
	im := cl.Store("orders").Import()
	for i := range events {
		if err := im.Add(ctx, api.NewEvent{Stream: fmt.Sprint("s", i%100), Type: "T", Data: []byte(fmt.Sprintf(`{"n":%d,"text":"%0300d"}`, i, i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	sum, err := cl.Store("orders").Backup(ctx, &file, client.BackupOptions{})
	if err != nil || sum.Events != events {
		t.Fatalf("backup: %+v, %v", sum, err)
	}
	backup, err := client.OpenBackup(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	c.CreateStore(cl, "copy")
	nc := c.Connect()
	killed := false
	err = cl.Restore(ctx, "copy", backup, client.RestoreOptions{Progress: func(p client.BackupProgress) {
		if killed || p.Events < events/4 {
			return
		}
		killed = true
		if p.Events > events*3/4 {
			t.Errorf("the leader is killed late, at %d of %d events", p.Events, events)
		}
		for subject, payload := range map[string]string{"es.copy.write.append.s": `{"events":[{"type":"T"}]}`, "es.copy.read.all": ``, "es.copy.write.snapshot.s1": `{"version":0,"data":1}`} {
			if _, failed := request[api.Reply](t, nc, subject, payload); wantError(failed, api.ErrRestoring) != nil {
				t.Errorf("%s while the store is being restored: %v", subject, failed)
			}
		}
		if info, failed := request[api.StoreInfoResponse](t, nc, "es.copy.read.info", ``); failed != nil || !info.Restoring {
			t.Errorf("info while the store is being restored: %v %+v", failed, info)
		}
		c.Node(c.Leader(cl, "copy").Leader).Kill()
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !killed {
		t.Fatal("no leader was killed")
	}
	sameEvents(t, "the restored store", allEvents(t, cl, "copy", 0), allEvents(t, cl, "orders", 0))
	if _, failed := request[api.Reply](t, nc, "es.copy.write.append.s", `{"events":[{"type":"T"}]}`); failed != nil {
		t.Errorf("the first append: %v", failed)
	}
}
