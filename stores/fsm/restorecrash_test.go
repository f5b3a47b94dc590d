package fsm

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var errPowerCut = errors.New("the power is gone")

// cutFolder is a folder of real files in which the power goes, or which fails, at a chosen operation. It knows what a disk may then hold: of the received file
// what was synced, and of what was written since any part; of the names those that were synced, and of what was done to them since any part.
type cutFolder struct {
	ops   int  // that were tried
	at    int  // the operation that does not succeed; negative: all do
	power bool // whether none after it does either
	deaf  int  // the sync that does nothing; negative: none
	syncs int

	old     []byte   // the state file before
	tmp     string   // where the received file is: under its first name, or under the state file's
	synced  []byte   // of the received file
	pending []string // what was done to names since they were synced: "create", "rename", "remove"
	durable []string // what was done before
}

// op counts an operation. At the cut it is done by half: tried says that the disk may have it.
func (c *cutFolder) op() (tried bool, err error) {
	n := c.ops
	c.ops++
	if c.at < 0 || n < c.at || n > c.at && !c.power {
		return true, nil
	}
	return n == c.at && c.power, errPowerCut
}

// hears counts a sync and reports whether it reaches the disk.
func (c *cutFolder) hears() bool {
	c.syncs++
	return c.syncs-1 != c.deaf
}

func (c *cutFolder) Create(path string) (receivedFile, error) {
	tried, err := c.op()
	if !tried {
		return nil, err
	}
	file, oerr := osFolder{}.Create(path)
	if oerr != nil {
		return nil, oerr
	}
	c.tmp = path
	c.pending = append(c.pending, "create")
	if err != nil {
		file.Close()
		return nil, err
	}
	return &cutFile{file, c}, nil
}

func (c *cutFolder) Rename(from, to string) error {
	tried, err := c.op()
	if !tried {
		return err
	}
	if rerr := os.Rename(from, to); rerr != nil {
		return rerr
	}
	c.tmp = to
	c.pending = append(c.pending, "rename")
	return err
}

func (c *cutFolder) Remove(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	tried, err := c.op()
	if tried {
		c.pending = append(c.pending, "remove")
	}
	return err // the file stays, so that its bytes can be looked at
}

func (c *cutFolder) Sync(dir string) error {
	tried, err := c.op()
	if tried && err == nil && c.hears() {
		c.durable, c.pending = append(c.durable, c.pending...), nil
	}
	return err
}

type cutFile struct {
	receivedFile
	folder *cutFolder
}

func (f *cutFile) Write(p []byte) (int, error) {
	tried, err := f.folder.op()
	if !tried {
		return 0, err
	}
	n, werr := f.receivedFile.Write(p)
	return n, errors.Join(err, werr)
}

func (f *cutFile) Truncate(size int64) error {
	tried, err := f.folder.op()
	if !tried {
		return err
	}
	return errors.Join(err, f.receivedFile.Truncate(size))
}

func (f *cutFile) Sync() error {
	tried, err := f.folder.op()
	if !tried || err != nil || !f.folder.hears() {
		return err
	}
	f.folder.synced, err = os.ReadFile(f.folder.tmp)
	return err
}

// image is what a disk may hold after a cut.
type image struct {
	name  string
	files map[string][]byte // by the name's end: "", restoreSuffix
}

// images are those that every cut is tried with: each part of the pending names with each fate of the bytes.
func (c *cutFolder) images(t *testing.T) (all []image) {
	now, err := os.ReadFile(c.tmp)
	if c.tmp != "" && err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	contents := map[string][]byte{"bytes are lost": c.synced, "bytes are kept": now}
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(uint64(c.ops), seed))
		torn := make([]byte, len(now))
		copy(torn, c.synced)
		const sector = 512
		for at := 0; at < len(now); at += sector {
			if rng.IntN(2) == 0 {
				copy(torn[at:min(at+sector, len(now))], now[at:])
			}
		}
		contents[fmt.Sprintf("bytes are torn, seed %d", seed)] = torn
	}
	for kept := range 1 << len(c.pending) {
		names := slices.Clone(c.durable)
		for i, what := range c.pending {
			if kept&(1<<i) != 0 {
				names = append(names, what)
			}
		}
		for what, bytes := range contents {
			im := image{fmt.Sprintf("%s; of names there are %v", what, names), map[string][]byte{"": c.old}}
			for _, n := range names {
				switch n {
				case "create":
					im.files[restoreSuffix] = bytes
				case "rename": // the new name may reach the disk when the first one never did
					im.files[""] = bytes
					delete(im.files, restoreSuffix)
				case "remove":
					delete(im.files, restoreSuffix)
				}
			}
			all = append(all, im)
		}
	}
	return all
}

// restoreCut restores a state of twenty entries over one of five, in a folder in which the operation at fails, and the power goes with it or not. It returns what is wrong.
func restoreCut(t *testing.T, snapshot []byte, at, deaf int, power bool) (c *cutFolder, tried int, wrong error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	f := openAt(t, path)
	fill(t, f, 0, 5)
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c = &cutFolder{at: at, power: power, deaf: deaf, old: old}
	f.folder = c
	done := restore(f, snapshot)
	if power {
		crash(t, f)
	} else {
		defer f.Close()
		if at, _ := f.Applied(); at != 5 && at != 20 || done == nil && at != 20 {
			return c, 0, fmt.Errorf("restored: %v; the machine that lives is at entry %d", done, at)
		}
		if err := f.Verify(); err != nil {
			return c, 0, fmt.Errorf("the machine that lives: %w", err)
		}
	}
	for _, im := range c.images(t) {
		if err := im.check(snapshot, done == nil); err != nil {
			return c, tried, fmt.Errorf("%s (restored: %v): %w", im.name, done, err)
		}
		tried++
	}
	return c, tried, nil
}

// check opens the image as the next process does: it must hold the old state or the new one, whole; the new one when the restore was acknowledged; and be able to be restored.
func (im image) check(snapshot []byte, acknowledged bool) error {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "state.db")
	for end, bytes := range im.files {
		if err := os.WriteFile(path+end, bytes, 0o600); err != nil {
			return err
		}
	}
	f, err := Open(testConfig(path))
	if err != nil {
		return err
	}
	defer f.Close()
	if at, _ := f.Applied(); at != 20 && (acknowledged || at != 5) {
		return fmt.Errorf("it is at entry %d", at)
	}
	if err := f.Verify(); err != nil {
		return err
	}
	if err := restore(f, snapshot); err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	if at, _ := f.Applied(); at != 20 {
		return fmt.Errorf("restored once more, it is at entry %d", at)
	}
	return f.Verify()
}

// The power goes at every operation of a restore, or the operation fails and the process lives.
func TestPowerCutsInRestore(t *testing.T) {
	source := openNew(t)
	fill(t, source, 0, 20)
	snapshot := snapshotOf(t, source)
	whole, _, err := restoreCut(t, snapshot, -1, -1, true)
	if err != nil {
		t.Fatal("without a cut:", err)
	}
	images := 0
	for _, power := range []bool{true, false} {
		for at := range whole.ops {
			_, n, err := restoreCut(t, snapshot, at, -1, power)
			if err != nil {
				t.Errorf("operation %d of %d fails, power goes: %v: %v", at+1, whole.ops, power, err)
			}
			images += n
		}
	}
	if whole.ops < 6 || images < 100 {
		t.Errorf("%d operations, %d images: the test has seen too little", whole.ops, images)
	}
	// The test must find a sync that is missing.
	for deaf := range whole.syncs {
		found := false
		for at := -1; at < whole.ops && !found; at++ {
			_, _, err := restoreCut(t, snapshot, at, deaf, true)
			found = err != nil
		}
		if !found {
			t.Errorf("nothing tells that sync %d of %d does nothing", deaf+1, whole.syncs)
		}
	}
}
