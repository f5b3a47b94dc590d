package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"
)

var errPowerCut = errors.New("the power is gone")

// faultFolder is a folder whose power goes, or which fails, at a chosen operation, and which loses what was not synced. Syncing a file says nothing of its name, and names that
// were not synced are lost or kept each by itself.
type faultFolder struct {
	ops     int                 // that were tried
	at      int                 // the operation that does not succeed; negative: all do
	power   bool                // whether none after it does either
	deaf    func(sync int) bool // syncs that do nothing
	syncs   []int               // the operations that synced something
	serial  int
	names   map[string]*faultInode // as a process sees them
	synced  map[string]*faultInode // as the disk has them at least
	pending []nameChange           // what lies between them, in order
	inodes  []*faultInode
}

type faultInode struct {
	now, synced []byte
}

// nameChange gives the inode the name to, unless that is empty, and takes the name from away from it, unless that is.
type nameChange struct {
	inode    *faultInode
	from, to string
}

func (c nameChange) apply(names map[string]*faultInode) {
	if c.from != "" && names[c.from] == c.inode {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.inode
	}
}

func newFaultFolder() *faultFolder {
	return &faultFolder{at: -1, names: map[string]*faultInode{}, synced: map[string]*faultInode{}}
}

// op counts an operation.
func (d *faultFolder) op() error {
	n := d.ops
	d.ops++
	if d.at >= 0 && (n == d.at || d.power && n > d.at) {
		return errPowerCut
	}
	return nil
}

// partly reports whether the operation that was just counted is the one at which the power goes: it may take effect.
func (d *faultFolder) partly() bool { return d.power && d.ops-1 == d.at }

// over reports whether the chosen operation was reached.
func (d *faultFolder) over() bool { return d.at >= 0 && d.ops > d.at }

// hears counts a sync, and reports whether it reaches the disk.
func (d *faultFolder) hears() bool {
	n := len(d.syncs)
	d.syncs = append(d.syncs, d.ops-1)
	return d.deaf == nil || !d.deaf(n)
}

// fate says what becomes of that which is not synced.
type fate struct {
	name  string
	names func(change int) bool               // whether a pending change of names is kept
	bytes func(was, is []byte) (whole []byte) // what is in a file
	alive bool                                // the process died, and the system did not: nothing is lost yet, nor synced
}

const (
	tearing     = 16 // bytes are written or not in blocks of so many
	simpleFates = 5  // so many come first that treat all alike
)

// fates are those that every cut is tried with. Each name by itself is kept, and is lost, while it is the other way round with all the others.
func (d *faultFolder) fates() []fate {
	lost := func(was, _ []byte) []byte { return was }
	kept := func(_, is []byte) []byte { return is }
	yes, no := func(int) bool { return true }, func(int) bool { return false }
	all := []fate{
		{"all is lost", no, lost, false}, {"names are kept", yes, lost, false}, {"bytes are kept", no, kept, false}, {"all is kept", yes, kept, false},
		{"the process was killed", nil, nil, true},
	}
	for i := range d.pending {
		all = append(all,
			fate{fmt.Sprintf("of names, %d alone is kept", i), func(change int) bool { return change == i }, kept, false},
			fate{fmt.Sprintf("of names, %d alone is lost", i), func(change int) bool { return change != i }, kept, false})
	}
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(uint64(d.ops), seed))
		coin := func() bool { return rng.IntN(2) == 0 }
		torn := func(was, is []byte) []byte {
			got := make([]byte, len(was))
			if coin() || len(is) < len(was) { // the length is written with the bytes or without
				got = make([]byte, len(is))
			}
			copy(got, was)
			for at := 0; at < min(len(is), len(got)); at += tearing {
				if coin() {
					copy(got[at:min(at+tearing, len(got))], is[at:])
				}
			}
			return got
		}
		all = append(all, fate{fmt.Sprintf("torn, seed %d", seed), func(int) bool { return coin() }, torn, false})
	}
	return all
}

// restart returns what the next process finds.
func (d *faultFolder) restart(f fate) *faultFolder {
	next := newFaultFolder()
	next.serial = d.serial
	copies := map[*faultInode]*faultInode{}
	for _, i := range d.inodes {
		c := &faultInode{slices.Clone(i.now), slices.Clone(i.synced)}
		if !f.alive {
			c.now = slices.Clone(f.bytes(i.synced, i.now))
			c.synced = slices.Clone(c.now)
		}
		copies[i] = c
		next.inodes = append(next.inodes, c)
	}
	for name, i := range d.synced {
		next.synced[name] = copies[i]
	}
	for i, c := range d.pending {
		c.inode = copies[c.inode]
		if f.alive {
			next.pending = append(next.pending, c)
		} else if f.names(i) {
			c.apply(next.synced)
		}
	}
	next.names = maps.Clone(next.synced)
	for _, c := range next.pending {
		c.apply(next.names)
	}
	return next
}

func (d *faultFolder) change(c nameChange) {
	c.apply(d.names)
	d.pending = append(d.pending, c)
}

func (d *faultFolder) Create(name string) (file, error) {
	err := d.op()
	if err != nil && !d.partly() {
		return nil, err
	}
	i := d.names[name]
	if i == nil {
		i = &faultInode{}
		d.inodes = append(d.inodes, i)
		d.change(nameChange{i, "", name})
	}
	i.now = nil
	return &faultFile{folder: d, name: name, inode: i}, err
}

func (d *faultFolder) CreateTemp(pattern string) (file, error) {
	d.serial++
	return d.Create(strings.Replace(pattern, "*", strconv.Itoa(d.serial), 1))
}

func (d *faultFolder) Open(name string) (file, error) {
	i := d.names[name]
	if i == nil {
		return nil, fs.ErrNotExist
	}
	return &faultFile{folder: d, name: name, inode: i}, nil
}

func (d *faultFolder) Rename(from, to string) error {
	err := d.op()
	i := d.names[from]
	if i == nil {
		return errors.Join(err, fs.ErrNotExist)
	}
	if err == nil || d.partly() {
		d.change(nameChange{i, from, to})
	}
	return err
}

func (d *faultFolder) Remove(name string) error {
	i := d.names[name]
	if i == nil {
		return fs.ErrNotExist
	}
	err := d.op()
	if err == nil || d.partly() {
		d.change(nameChange{i, name, ""})
	}
	return err
}

func (d *faultFolder) List() ([]string, error) { return slices.Sorted(maps.Keys(d.names)), nil }

func (d *faultFolder) Sync() error {
	if err := d.op(); err != nil {
		return err
	}
	if d.hears() {
		d.synced, d.pending = maps.Clone(d.names), nil
	}
	return nil
}

type faultFile struct {
	folder *faultFolder
	name   string
	inode  *faultInode
	read   int
}

func (f *faultFile) Write(p []byte) (int, error) {
	switch err := f.folder.op(); {
	case err == nil:
		f.inode.now = append(f.inode.now, p...)
		return len(p), nil
	case f.folder.partly():
		f.inode.now = append(f.inode.now, p...)
		return 0, err
	case f.folder.power:
		return 0, err
	default: // no space, say
		f.inode.now = append(f.inode.now, p[:len(p)/2]...)
		return len(p) / 2, err
	}
}

func (f *faultFile) Read(p []byte) (int, error) {
	n, err := bytes.NewReader(f.inode.now[f.read:]).Read(p)
	f.read += n
	return n, err
}

func (f *faultFile) Sync() error {
	if err := f.folder.op(); err != nil {
		return err
	}
	if f.folder.hears() {
		f.inode.synced = slices.Clone(f.inode.now)
	}
	return nil
}

func (f *faultFile) Name() string { return f.name }

func (f *faultFile) Stat() (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{"f": {Data: f.inode.now}}, "f")
}

func (f *faultFile) Close() error { return nil }
