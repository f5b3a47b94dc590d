package fsm

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// punchHole takes the blocks from the file; what was there is read as zeros.
func punchHole(file *os.File, offset, length int64) error {
	for {
		err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return ErrNoHoles
		default:
			return err
		}
	}
}

// data returns the next stretch at or behind the offset that has blocks; begin is -1 when there is none.
func data(file *os.File, offset int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return -1, -1, nil
	}
	if err != nil {
		return -1, -1, err
	}
	end, err = unix.Seek(int(file.Fd()), begin, unix.SEEK_HOLE)
	return begin, end, err
}

// allocated returns how much of the disk a file takes.
func allocated(fi os.FileInfo) int64 {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return fi.Size()
}
