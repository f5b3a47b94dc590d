package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type backupCmd struct {
	clientFlags
	Store string `arg:"" help:"The store."`
	File  string `arg:"" help:"Where to; - for standard output. A file that is there is not replaced."`
	Force bool   `help:"Replace the file when it is there. Only a regular file is ever replaced."`
	Quiet bool   `help:"Do not say how far it is." short:"q"`
}

// Run writes the backup beside the file first, so that FILE is a whole backup or not there.
func (c *backupCmd) Run(e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	if err := c.answers(e, cl.Store(c.Store)); err != nil {
		return err
	}
	out, finish, err := c.open(e)
	if err != nil {
		return err
	}
	show := newShown(e, c.Quiet, "backed up")
	sum, err := cl.Store(c.Store).Backup(e.ctx, out, client.BackupOptions{Progress: show.progress})
	show.end()
	if err = finish(err); err != nil {
		return err
	}
	if c.File == "-" {
		fmt.Fprintf(e.stderr, "%s is backed up: %d events, %d keys\n", c.Store, sum.Events, sum.Keys)
		return nil
	}
	return c.print(e, sum, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s is backed up to %s at position %d: %d events, %d keys beside them\n", c.Store, c.File, sum.Position, sum.Events, sum.Keys)
	})
}

// check refuses a FILE that is not to be replaced, or cannot be: what is put in its place is a regular file, which neither a device, a pipe nor a link would be any more.
func (c *backupCmd) check() error {
	info, err := os.Lstat(c.File)
	switch {
	case c.File == "-" || errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return usagef("%s is not a regular file; give another name, or - and send standard output there", c.File)
	case !c.Force:
		return usagef("%s is there already; give another name, or --force", c.File)
	}
	return nil
}

// open returns where to write, and what is to be called with the result.
func (c *backupCmd) open(e *env) (io.Writer, func(error) error, error) {
	if c.File == "-" {
		return e.stdout, func(err error) error { return err }, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(c.File), "."+filepath.Base(c.File)+".*")
	if err != nil {
		return nil, nil, err
	}
	return tmp, func(err error) error {
		if err == nil {
			err = tmp.Sync()
		}
		if err = errors.Join(err, tmp.Close()); err != nil {
			os.Remove(tmp.Name())
			return err
		}
		if err := c.place(tmp.Name()); err != nil {
			return remarkf(err, "the backup is whole; it is in %s", tmp.Name())
		}
		return nil
	}, nil
}

// place gives the finished backup its name. It may have taken long: what FILE is by now counts.
func (c *backupCmd) place(tmp string) error {
	if !c.Force { // a link is refused where a rename would replace what somebody made meanwhile
		err := os.Link(tmp, c.File)
		if err == nil {
			return os.Remove(tmp)
		}
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s was made meanwhile, by somebody else; give another name, or --force", c.File)
		}
		// The file system has no links.
	}
	if err := c.check(); err != nil {
		return err
	}
	return os.Rename(tmp, c.File)
}

type restoreCmd struct {
	clientFlags
	Store    string `arg:"" help:"The store; created unless it is there, and then it must be empty."`
	File     string `arg:"" help:"The backup, a regular file; - for standard input."`
	Check    bool   `help:"Only say whether the backup is whole, and what is in it. STORE is not touched."`
	NoVerify bool   `help:"Do not read the restored events again."`
	Quiet    bool   `help:"Do not say how far it is." short:"q"`
}

// Run reads the whole backup before it sends anything.
func (c *restoreCmd) Run(e *env) error {
	file, err := c.open(e)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	backup, err := client.OpenBackup(file, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	what := map[string]any{"header": backup.Header, "summary": backup.Summary, "sha256": backup.SHA256}
	h, sum := backup.Header, backup.Summary
	from := fmt.Sprintf("store %s of cluster %s at position %d, of %s: %d events, %d keys beside them", h.Store, h.Cluster, sum.Position, h.Time.Format(time.RFC3339), sum.Events, sum.Keys)
	if c.Check {
		return c.print(e, what, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s is whole: %s\n", c.File, from) })
	}
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	if err := c.reaches(e, cl); err != nil {
		return err
	}
	show := newShown(e, c.Quiet, "restored")
	before := false
	err = cl.Restore(e.ctx, c.Store, backup, client.RestoreOptions{Progress: show.progress, NoVerify: c.NoVerify, RestoredBefore: func() { before = true }})
	show.end()
	if err != nil {
		if p := show.progressed; p.Events > 0 && !p.Check {
			err = remarkf(err, "the restore is at position %d of %d; start it again to go on", p.Events, p.Target)
		}
		return err
	}
	what["restored_before"] = before
	return c.print(e, what, func(w *tabwriter.Writer) {
		if before {
			fmt.Fprintf(w, "%s was restored from this backup before, and nothing was done now: what was written, deleted or truncated there since stays so; to have the backup's state, restore into another store\n", c.Store)
			return
		}
		fmt.Fprintf(w, "%s is restored from %s\n", c.Store, from)
	})
}

// reaches reports, within the time limit, why nothing can be restored there. The store may be missing.
func (c *restoreCmd) reaches(e *env, cl *client.Client) error {
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	_, err := cl.StoreRecord(ctx, c.Store)
	if errors.Is(err, api.ErrConfigNotFound) {
		return nil
	}
	return err
}

// open returns the file. Standard input is kept in a temporary one: nothing is sent before all of it was checked.
func (c *restoreCmd) open(e *env) (*os.File, error) {
	if c.File != "-" {
		info, err := os.Stat(c.File) // before it is opened: a pipe would wait for its writer
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, usagef("%s is not a regular file; a backup is read more than once: give a file, or - and send it to standard input", c.File)
		}
		return os.Open(c.File)
	}
	tmp, err := os.CreateTemp("", "quorate-restore-*")
	if err != nil {
		return nil, err
	}
	os.Remove(tmp.Name()) // it lives as long as it is open
	if _, err := io.Copy(tmp, e.stdin); err != nil {
		tmp.Close()
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return tmp, nil
}

// showEvery is how often progress is said.
const showEvery = time.Second

// shown says on standard error how far something is, now and then.
type shown struct {
	out   io.Writer
	verb  string
	began time.Time
	last  time.Time
	said  bool
	check bool

	progressed client.BackupProgress // the last that was told
}

func newShown(e *env, quiet bool, verb string) *shown {
	s := &shown{out: e.stderr, verb: verb, began: time.Now(), last: time.Now()}
	if quiet {
		s.out = io.Discard
	}
	return s
}

func (s *shown) progress(p client.BackupProgress) {
	s.progressed = p
	now := time.Now()
	if now.Sub(s.last) < showEvery {
		return
	}
	verb := s.verb
	if p.Check {
		verb = "read again"
	}
	if p.Check != s.check {
		s.check, s.began = p.Check, s.last
	}
	s.last, s.said = now, true
	fmt.Fprintf(s.out, "\r%d of %d events %s, %.0f/s ", p.Events, p.Target, verb, float64(p.Events)/now.Sub(s.began).Seconds())
}

func (s *shown) end() {
	if s.said {
		fmt.Fprintln(s.out)
	}
}
