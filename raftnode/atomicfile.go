package raftnode

import (
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const tmpSuffix = ".tmp"

// folder is a directory in which files appear, are renamed and removed; names are those within it. What is written to a file may be lost until the file is synced, and
// what happened to names until the folder is. Tests put one in its place that loses it.
type folder interface {
	// Create opens a file for writing and empties it if it is there.
	Create(name string) (file, error)
	// CreateTemp makes a file with a new name in which the pattern's * is replaced, as os.CreateTemp does.
	CreateTemp(pattern string) (file, error)
	Open(name string) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync makes names durable, not what is in the files.
	Sync() error
}

// file is what is needed of an *os.File. The last part of its name is its name in the folder.
type file interface {
	io.ReadWriteCloser
	Name() string
	Stat() (fs.FileInfo, error)
	Sync() error
}

// osFolder is a directory of the operating system.
type osFolder string

func (d osFolder) path(name string) string { return filepath.Join(string(d), name) }

func (d osFolder) Create(name string) (file, error) {
	return orNil(os.OpenFile(d.path(name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640))
}

func (d osFolder) CreateTemp(pattern string) (file, error) {
	return orNil(os.CreateTemp(string(d), pattern))
}

func (d osFolder) Open(name string) (file, error) { return orNil(os.Open(d.path(name))) }

func (d osFolder) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d osFolder) Remove(name string) error { return os.Remove(d.path(name)) }

func (d osFolder) List() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d osFolder) Sync() error { return SyncDir(string(d)) }

// orNil keeps a nil *os.File from becoming a file that is not nil.
func orNil(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func readFile(dir folder, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// WriteJSON replaces path by v as JSON. After a crash at any step the file holds either the old or the new text, whole: the new text is
// synced under another name, renamed over the old one, and the directory is synced.
func WriteJSON(path string, v any) error {
	return writeJSON(osFolder(filepath.Dir(path)), filepath.Base(path), v)
}

func writeJSON(dir folder, name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := name + tmpSuffix
	f, err := dir.Create(tmp)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(raw, '\n')); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		dir.Remove(tmp)
		return err
	}
	if err := dir.Rename(tmp, name); err != nil {
		return err
	}
	return dir.Sync()
}

// SyncDir makes the directory's entries durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
