package fsm

import (
	"io"
	"os"
)

// folder is what a restore does to files. Tests cut the power in it; bbolt itself, which maps its file, needs real ones.
type folder interface {
	Create(path string) (receivedFile, error) // empty, whatever was there
	Rename(from, to string) error
	Remove(path string) error
	Sync(dir string) error // the names in it
}

// receivedFile takes a state that is coming in.
type receivedFile interface {
	io.WriteCloser
	io.ReaderAt
	Truncate(size int64) error
	Sync() error
}

type osFolder struct{}

func (osFolder) Create(path string) (receivedFile, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
}

func (osFolder) Rename(from, to string) error { return os.Rename(from, to) }
func (osFolder) Remove(path string) error     { return os.Remove(path) }

func (osFolder) Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
