package client_test

import (
	"bytes"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// TestRestoreAgain: a store that was restored from the backup before is left alone, and the caller is told.
func TestRestoreAgain(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "restored")
	if _, err := st.Append(ctx, "a", numbered(0, 5), client.Any); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := st.Backup(ctx, &file, client.BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	backup, err := client.OpenBackup(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	cl := client.New(nc)
	name, before := st.Name()+"-copy", 0
	for i := range 2 {
		if err := cl.Restore(ctx, name, backup, client.RestoreOptions{RestoredBefore: func() { before++ }}); err != nil || before != i {
			t.Errorf("restore %d: %v, it was told %d times that it was restored before", i, err, before)
		}
		if _, err := cl.Store(name).TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 5}); err != nil {
			t.Fatal(err)
		}
	}
	for e := range cl.Store(name).ReadAll(ctx, client.ReadOptions{}) {
		t.Errorf("%+v is back", e)
	}
}
