package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBackupFile: a backup takes its name when it is whole, and only --force replaces a file, also one that was made meanwhile.
func TestBackupFile(t *testing.T) {
	for _, row := range []struct {
		name      string
		before    bool // FILE is there when the backup begins
		meanwhile bool
		force     bool
		want      string // in FILE
	}{
		{"there is none", false, false, false, "backup"},
		{"there is one", true, false, false, "other"},
		{"one is made meanwhile", false, true, false, "other"},
		{"one is replaced", true, false, true, "backup"},
		{"one that was made meanwhile is replaced", false, true, true, "backup"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			c := &backupCmd{File: filepath.Join(dir, "orders.backup"), Force: row.force}
			backUp := func() error {
				if err := c.check(); err != nil {
					return err
				}
				out, finish, err := c.open(nil)
				if err != nil {
					return err
				}
				if row.meanwhile {
					write(t, c.File, "other")
				}
				_, err = io.WriteString(out, "backup")
				return finish(err)
			}
			if row.before {
				write(t, c.File, "other")
			}
			err := backUp()
			if (err != nil) != (row.want == "other") {
				t.Error(err)
			}
			if got, err := os.ReadFile(c.File); string(got) != row.want {
				t.Errorf("%q is there, %v", got, err)
			}
			files, _ := filepath.Glob(filepath.Join(dir, "*")) // with those that begin with a dot
			switch {
			case row.meanwhile && err != nil: // the work is not lost
				if got, rerr := os.ReadFile(files[0]); len(files) != 2 || string(got) != "backup" || !strings.Contains(err.Error(), files[0]) {
					t.Errorf("%v holds %q (%v), and the error says %v", files, got, rerr, err)
				}
			case len(files) != 1:
				t.Errorf("%v are there", files)
			}
		})
	}
}

// A device, a pipe or a link would be replaced by a file, whatever is forced; and a backup is read more than once.
func TestBackupOfNoFile(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"backup", "orders", os.DevNull, "--force"}, {"backup", "orders", link, "--force"}, {"backup", "orders", t.TempDir(), "--force"}, {"restore", "orders", os.DevNull}} {
		var errs bytes.Buffer
		if code := run(&env{ctx: t.Context(), stdout: io.Discard, stderr: &errs}, args); code != exitUsage || !strings.Contains(errs.String(), "not a regular file") {
			t.Errorf("%v: exit code %d, %s", args, code, &errs)
		}
	}
}
