package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quorate/quorate/api"
)

// An export that was cut off says how to go on, and leaves no file without an event in the way of the next try.
func TestExportCutOff(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.ndjson")
	for _, row := range []struct {
		file   string
		events int
		says   string
		stays  bool
	}{
		{file, 7, "7 events were written; go on with: quorate export orders --after 9 >> " + file, true},
		{file, 0, "", false},
		{"-", 7, "7 events were written; go on with --after 9", true},
		{"-", 0, "", true},
	} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := (&exportCmd{Store: "orders", File: row.file}).cutOff(api.ErrNoLeader, row.events, 9)
		if !errors.Is(err, api.ErrNoLeader) || !strings.Contains(err.Error(), row.says) || row.says == "" && err != error(api.ErrNoLeader) {
			t.Errorf("%s, %d events: %v", row.file, row.events, err)
		}
		if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) == row.stays {
			t.Errorf("%s, %d events: %v", row.file, row.events, err)
		}
	}
}
