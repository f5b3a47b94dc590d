package testcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"unsafe"
)

// Disk is a file system of its own, in a file, whose power can be cut: from then on nothing reaches it, and what was written and not synced is lost, file contents and
// names alike.
type Disk struct {
	Dir   string // where it is mounted
	t     testing.TB
	image string
}

// diskBytes is a disk's size: segments of the log are 8 MiB, and there are a few of them.
const diskBytes = 400 << 20

// NewDisk makes and mounts a file system, or skips the test when that is not possible here. It goes with the test.
func NewDisk(t testing.TB) *Disk {
	t.Helper()
	NeedRoot(t, "mounted file systems", "mkfs.ext4", "mount", "umount")
	sweepDisks()
	root, err := os.MkdirTemp("", fmt.Sprintf("quorate-disk-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	d := &Disk{t: t, image: filepath.Join(root, "image"), Dir: filepath.Join(root, "mnt")}
	t.Cleanup(func() {
		d.unmount()
		os.RemoveAll(root)
	})
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, diskBytes), os.Mkdir(d.Dir, 0o750)); err != nil {
		t.Fatal(err)
	}
	// Without a part that only root may use: the test is root, and a full disk must be full.
	if out, err := output("mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0 " + d.image); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := d.mount(); err != nil {
		t.Skipf("NOT RUN: no file system can be mounted here: %v", err)
	}
	return d
}

// Disks makes n of them.
func Disks(t testing.TB, n int) (disks []*Disk) {
	t.Helper()
	for range n {
		disks = append(disks, NewDisk(t))
	}
	return disks
}

// mount mounts it so that the file system writes nothing by itself for five minutes: only what is synced is kept.
func (d *Disk) mount() error {
	out, err := output(fmt.Sprintf("mount -o loop,commit=300 %s %s", d.image, d.Dir))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// unmount waits until those who used it have let it go.
func (d *Disk) unmount() error {
	var out string
	err := errors.New("not tried")
	for range 3 {
		if out, err = output("umount " + d.Dir); err == nil {
			return nil
		}
	}
	if lazy, _ := output("umount -l " + d.Dir); lazy != "" {
		out += "; " + lazy
	}
	return fmt.Errorf("%w: %s", err, out)
}

// shutdown is FS_IOC_SHUTDOWN, and noFlush its flag not to write the journal first. xfs_io -x -c shutdown does the same.
const (
	shutdown = 0x8004587d
	noFlush  = 2
)

// Cut cuts the power. The node that uses the disk goes on for as long as it can live without one.
func (d *Disk) Cut() error {
	f, err := os.Open(d.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flag := uint32(noFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		return fmt.Errorf("cut the power of %s: %w", d.Dir, errno)
	}
	return nil
}

// Restore mounts the disk again after a cut, as it then is. Who used it must have ended.
func (d *Disk) Restore() {
	d.t.Helper()
	if err := errors.Join(d.unmount(), d.mount()); err != nil {
		d.t.Fatal(err)
	}
}

const ballast = "ballast"

// Fill leaves no room on the disk.
func (d *Disk) Fill() error {
	f, err := os.Create(filepath.Join(d.Dir, ballast))
	if err != nil {
		return err
	}
	defer f.Close()
	for at, size := int64(0), int64(64<<20); size > 0; { // reserved, not written: it is fast
		if err := syscall.Fallocate(int(f.Fd()), 0, at, size); err == nil {
			at += size
		} else if errors.Is(err, syscall.ENOSPC) {
			size /= 2 // the last corner
		} else {
			return err
		}
	}
	return nil
}

// Free makes room again.
func (d *Disk) Free() error { return os.Remove(filepath.Join(d.Dir, ballast)) }

var diskOf = regexp.MustCompile(`/quorate-disk-(\d+)-[^/]+$`)

// sweepDisks removes what tests left that were killed.
func sweepDisks() {
	roots, _ := filepath.Glob(filepath.Join(os.TempDir(), "quorate-disk-*")) // the pattern is fine
	for _, root := range roots {
		found := diskOf.FindStringSubmatch(root)
		if found == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + found[1]); os.IsNotExist(err) {
			output("umount -l " + filepath.Join(root, "mnt")) // it may not be mounted
			os.RemoveAll(root)
		}
	}
}
