package raftnode

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func TestIdentityStaysWithItsDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when", "missing")
	id, err := OpenIdentity(dir, "n1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^n1~[0-9a-f]{16}$`).MatchString(id.ServerID()) || id.Dir() != dir || !id.Created.Equal(epoch) {
		t.Fatalf("got %s in %s of %s", id.ServerID(), id.Dir(), id.Created)
	}
	id.Close()
	again, err := OpenIdentity(dir, "n1", epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ServerID() != id.ServerID() || !again.Created.Equal(epoch) {
		t.Fatalf("got %s of %s, want %s of %s", again.ServerID(), again.Created, id.ServerID(), epoch)
	}
}

func TestAWipedDirectoryIsAnotherDisk(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenIdentity(dir, "n1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	for _, name := range []string{identityFile, lockFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	second, err := OpenIdentity(dir, "n1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.DiskID == first.DiskID {
		t.Fatalf("the wiped disk is %s again", second.DiskID)
	}
	if ServerName(second.ServerID()) != "n1" {
		t.Fatalf("got name %q", ServerName(second.ServerID()))
	}
}

func TestIdentityRefusals(t *testing.T) {
	valid := `{"format":1,"name":"n1","disk_id":"0123456789abcdef"}`
	rows := []struct {
		name  string
		files map[string]string
		want  string // part of the error; empty: opened
	}{
		{"blank", nil, ""},
		{"a new file system", map[string]string{"lost+found": ""}, ""},
		{"the first start was cut off while writing", map[string]string{identityFile + tmpSuffix: `{"form`}, ""},
		{"used before", map[string]string{identityFile: valid, "raft.db": "x"}, ""},
		{"another node's", map[string]string{identityFile: strings.Replace(valid, "n1", "n2", 1)}, `belongs to node "n2", not "n1"`},
		{"data without an identity", map[string]string{"raft.db": "x"}, "holds raft.db but no node.json"},
		{"a home directory", map[string]string{".bashrc": "x"}, "not a blank disk"},
		{"cut off", map[string]string{identityFile: valid[:20]}, "is damaged"},
		{"empty", map[string]string{identityFile: ""}, "is damaged"},
		{"without a disk id", map[string]string{identityFile: `{"format":1,"name":"n1"}`}, "is damaged"},
		{"of a newer program", map[string]string{identityFile: strings.Replace(valid, "1", "2", 1)}, "has format 2"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range r.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			id, err := OpenIdentity(dir, "n1", epoch)
			if err == nil {
				defer id.Close()
			}
			if r.want == "" && err != nil || r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)) {
				t.Fatalf("got %v, want %q", err, r.want)
			}
			if err != nil { // a refusal gives the lock back and changes nothing
				for name, text := range r.files {
					if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != text {
						t.Errorf("%s was changed to %q", name, got)
					}
				}
				lock, err := lockDir(dir)
				if err != nil {
					t.Fatalf("the refusal keeps the lock: %v", err)
				}
				lock.Close()
			}
		})
	}
}

func TestADirectoryHasOneProcess(t *testing.T) {
	dir := t.TempDir()
	id, err := OpenIdentity(dir, "n1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIdentity(dir, "n1", epoch); err == nil || !strings.Contains(err.Error(), "in use by another quorate process") {
		t.Fatalf("got %v, want the lock refused", err)
	}
	id.Close()
	id, err = OpenIdentity(dir, "n1", epoch)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	id.Close()
}

func TestWriteJSONLeavesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.json")
	for _, v := range []int{1, 2} {
		if err := WriteJSON(path, v); err != nil {
			t.Fatal(err)
		}
	}
	if raw, _ := os.ReadFile(path); string(raw) != "2\n" {
		t.Fatalf("got %q", raw)
	}
	if err := WriteJSON(path, func() {}); err == nil {
		t.Fatal("a function is JSON")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Fatalf("got %v, want only f.json", entries)
	}
}
