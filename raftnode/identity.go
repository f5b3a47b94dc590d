package raftnode

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	identityFile   = "node.json"
	lockFile       = "lock"
	identityFormat = 1
)

// Identity is who this disk is. A server's id is its name and the id of its disk, so a machine that comes back with an empty disk is
// a new member: it cannot vote under the old one's identity and so cannot help elect a leader that lacks acknowledged entries.
type Identity struct {
	Format  int       `json:"format"`
	Name    string    `json:"name"`
	DiskID  string    `json:"disk_id"` // 16 hex digits, drawn when the directory was first used
	Created time.Time `json:"created"`

	dir  string
	lock *os.File
}

// OpenIdentity locks dir for this process and reads who it is, drawing an identity for an empty directory. It creates dir when missing.
//
// It refuses a directory that another process uses, that belongs to another name, or that holds data without an identity.
func OpenIdentity(dir, name string, now time.Time) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id, err = drawIdentity(dir, name, now)
	}
	if err == nil && id.Name != name {
		err = fmt.Errorf("data directory %s belongs to node %q, not %q: start with --name %s or another --data", dir, id.Name, name, id.Name)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	id.dir, id.lock = dir, lock
	return id, nil
}

// ServerID returns name~disk, the id under which this disk is a member of Raft groups.
func (id *Identity) ServerID() string { return id.Name + "~" + id.DiskID }

// Dir returns the data directory.
func (id *Identity) Dir() string { return id.dir }

// Close gives the directory free for another process.
func (id *Identity) Close() error { return id.lock.Close() }

// ServerName returns the name part of a server id.
func ServerName(serverID string) string {
	name, _, _ := strings.Cut(serverID, "~")
	return name
}

// lockDir takes an flock, which the kernel gives back when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("data directory lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another quorate process: stop it, or choose another --data", dir)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	return f, nil
}

func readIdentity(dir string) (*Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, err
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return nil, fmt.Errorf("%s is damaged (%v): restore it or move the directory away; the node then joins as a new member", filepath.Join(dir, identityFile), err)
	}
	if id.Format != identityFormat {
		return nil, fmt.Errorf("%s has format %d, this program reads %d", filepath.Join(dir, identityFile), id.Format, identityFormat)
	}
	if id.Name == "" || len(id.DiskID) != 16 {
		return nil, fmt.Errorf("%s is damaged: name %q, disk id %q", filepath.Join(dir, identityFile), id.Name, id.DiskID)
	}
	return &id, nil
}

func drawIdentity(dir, name string, now time.Time) (*Identity, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != "lost+found" && !strings.HasSuffix(e.Name(), tmpSuffix) {
			return nil, fmt.Errorf("data directory %s holds %s but no %s: it is not a blank disk and not a node's; move it away or choose another --data", dir, e.Name(), identityFile)
		}
	}
	var raw [8]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, err
	}
	id := &Identity{Format: identityFormat, Name: name, DiskID: hex.EncodeToString(raw[:]), Created: now.UTC()}
	return id, WriteJSON(filepath.Join(dir, identityFile), id)
}
