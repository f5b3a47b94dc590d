package client

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/quorate/quorate/api"
)

// A backup file:
//
//	QUORATE-BACKUP {header as JSON}\n
//	frames, compressed with zstd:  kind (1: E or K) · length (4, big-endian) · page, see api.BackupEvents and api.BackupKeys
//	{trailer as JSON}\n
//	QUORATE-END <length of the trailer's line, 8 digits> <SHA-256 of all bytes before this line, 64 digits>\n
//
// Pages of events come first, in position order, then pages of keys.
const (
	backupMagic   = "QUORATE-BACKUP "
	backupEnd     = "QUORATE-END "
	backupEndSize = len(backupEnd) + 8 + 1 + 2*sha256.Size + 1
	backupFormat  = 1

	frameEvents = 'E'
	frameKeys   = 'K'

	maxHeader = 64 << 10
	maxFrame  = 2 * api.MaxPayload
)

// BackupHeader says where a backup comes from.
type BackupHeader struct {
	Format      int              `json:"format"`
	Store       string           `json:"store"`
	Incarnation uint64           `json:"incarnation"`
	Cluster     string           `json:"cluster"`
	Version     string           `json:"version"` // of the program
	Time        time.Time        `json:"time"`    // when the backup began
	Options     api.StoreOptions `json:"options"`
}

// BackupSummary says what a backup holds.
type BackupSummary struct {
	Position     uint64     `json:"position"` // the backup is the store's state right behind the event with this position
	Events       uint64     `json:"events"`
	Keys         uint64     `json:"keys"` // what the store keeps beside events: snapshots, metadata, subscriptions
	EventsDigest api.Digest `json:"events_digest"`
	KeysDigest   api.Digest `json:"keys_digest"`
	Time         time.Time  `json:"time"` // when it was finished
}

// backupWriter writes a backup file and keeps its sums.
type backupWriter struct {
	out     io.Writer
	sum     hash.Hash
	written int64
	frames  *zstd.Encoder
	digests api.Digester
	summary BackupSummary
}

// Write implements io.Writer for the file's bytes.
func (b *backupWriter) Write(p []byte) (int, error) {
	n, err := b.out.Write(p)
	b.sum.Write(p[:n])
	b.written += int64(n)
	return n, err
}

func newBackupWriter(w io.Writer, h *BackupHeader) (*backupWriter, error) {
	b := &backupWriter{out: w, sum: sha256.New()}
	raw, err := api.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(b, "%s%s\n", backupMagic, raw); err != nil {
		return nil, err
	}
	b.frames, err = zstd.NewWriter(b, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	return b, err
}

// events adds a page, which must follow the one before, and reports whether any of its events was scavenged.
func (b *backupWriter) events(page []byte) (scavenged bool, err error) {
	events, err := b.summary.addEvents(&b.digests, page)
	if err != nil {
		return false, err
	}
	for i := range events {
		scavenged = scavenged || events[i].Scavenged()
	}
	return scavenged, b.frame(frameEvents, page)
}

func (b *backupWriter) keys(page []byte) error {
	if err := b.summary.addKeys(&b.digests, page); err != nil {
		return err
	}
	return b.frame(frameKeys, page)
}

func (b *backupWriter) frame(kind byte, page []byte) error {
	var head [5]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(page)))
	if _, err := b.frames.Write(head[:]); err != nil {
		return err
	}
	_, err := b.frames.Write(page)
	return err
}

// finish writes trailer and end.
func (b *backupWriter) finish() error {
	if err := b.frames.Close(); err != nil {
		return err
	}
	trailer, err := api.Marshal(b.summary)
	if err != nil {
		return err
	}
	if _, err := b.Write(append(trailer, '\n')); err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.out, "%s%08d %x\n", backupEnd, len(trailer)+1, b.sum.Sum(nil))
	return err
}

func (s *BackupSummary) addEvents(h *api.Digester, page []byte) ([]api.BackupEvent, error) {
	events, err := api.DecodeBackupEvents(page)
	if err != nil {
		return nil, err
	}
	if s.Keys > 0 {
		return nil, errors.New("events stand behind keys")
	}
	for i := range events {
		if events[i].Position != s.Position+1 {
			return nil, fmt.Errorf("event %d stands behind event %d", events[i].Position, s.Position)
		}
		s.Position, s.Events = s.Position+1, s.Events+1
		s.EventsDigest = h.Event(s.EventsDigest, &events[i])
	}
	return events, nil
}

func (s *BackupSummary) addKeys(h *api.Digester, page []byte) error {
	first, keys, err := api.DecodeBackupKeys(page)
	if err != nil {
		return err
	}
	if first != s.Keys {
		return fmt.Errorf("key %d stands behind %d keys", first, s.Keys)
	}
	for i := range keys {
		s.KeysDigest = h.Key(s.KeysDigest, &keys[i])
	}
	s.Keys += uint64(len(keys))
	return nil
}

// ErrNotBackup is matched by the error of OpenBackup for what is no whole backup: another file, a damaged or a truncated one.
var ErrNotBackup = errors.New("not a whole backup")

// Backup is a backup file that was read from end to end and found whole.
type Backup struct {
	Header  BackupHeader
	Summary BackupSummary
	SHA256  string // of all the file but its last line, which says it

	file        io.ReaderAt
	start, stop int64 // of the compressed frames
}

// OpenBackup reads the file from end to end, holds it against its checksums and counts, and returns it. Whatever is not right in it, nothing was sent anywhere yet.
func OpenBackup(file io.ReaderAt, size int64) (*Backup, error) {
	b := &Backup{file: file}
	if err := b.check(size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotBackup, err)
	}
	return b, nil
}

func (b *Backup) check(size int64) error {
	head := make([]byte, min(size, maxHeader))
	if _, err := b.file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	rest, ok := bytes.CutPrefix(head, []byte(backupMagic))
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	if !ok || !whole {
		return fmt.Errorf("it does not begin with %q; is it a file of quorate backup?", backupMagic)
	}
	if err := json.Unmarshal(line, &b.Header); err != nil {
		return fmt.Errorf("its header cannot be read: %w", err)
	}
	if b.Header.Format != backupFormat {
		return fmt.Errorf("it has format %d, this version knows %d; use the version that wrote it (%s)", b.Header.Format, backupFormat, b.Header.Version)
	}
	b.start = int64(len(backupMagic) + len(line) + 1)
	trailer, err := b.readEnd(size)
	if err != nil {
		return err
	}
	want := BackupSummary{}
	if err := json.Unmarshal(trailer, &want); err != nil {
		return fmt.Errorf("its trailer cannot be read: %w", err)
	}
	var digests api.Digester
	for page, err := range b.pages() {
		switch {
		case err != nil:
			return err
		case page.kind == frameEvents:
			_, err = b.Summary.addEvents(&digests, page.data)
		default:
			err = b.Summary.addKeys(&digests, page.data)
		}
		if err != nil {
			return err
		}
	}
	b.Summary.Time = want.Time
	if b.Summary != want {
		return fmt.Errorf("it holds %d events and %d keys with digests %x and %x, and its trailer says %d, %d, %x and %x", b.Summary.Events, b.Summary.Keys, b.Summary.EventsDigest, b.Summary.KeysDigest,
			want.Events, want.Keys, want.EventsDigest, want.KeysDigest)
	}
	return nil
}

// readEnd checks the sum over the whole file and returns the trailer.
func (b *Backup) readEnd(size int64) (trailer []byte, err error) {
	errCut := errors.New("its end is missing: it is truncated, or something was added to it")
	end := make([]byte, backupEndSize)
	if size < b.start+int64(backupEndSize) {
		return nil, errCut
	}
	if _, err := b.file.ReadAt(end, size-int64(backupEndSize)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var length int64
	var sum string
	if n, err := fmt.Sscanf(string(end), backupEnd+"%08d %64s\n", &length, &sum); err != nil || n != 2 || !bytes.HasPrefix(end, []byte(backupEnd)) || end[len(end)-1] != '\n' {
		return nil, errCut
	}
	b.stop = size - int64(backupEndSize) - length
	if length <= 0 || b.stop < b.start {
		return nil, errCut
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(b.file, 0, size-int64(backupEndSize))); err != nil {
		return nil, err
	}
	if b.SHA256 = hex.EncodeToString(h.Sum(nil)); b.SHA256 != sum {
		return nil, fmt.Errorf("it is damaged: its SHA-256 is %s, and it was written with %s", b.SHA256, sum)
	}
	trailer = make([]byte, length)
	_, err = b.file.ReadAt(trailer, b.stop)
	return trailer, err
}

// backupPage is a page with what it holds.
type backupPage struct {
	kind byte
	data []byte
	last uint64 // position of its last event, or how many keys there are with it
}

// pages yields the pages in the file's order. It ends with the first error.
func (b *Backup) pages() func(yield func(backupPage, error) bool) {
	return func(yield func(backupPage, error) bool) {
		frames, err := zstd.NewReader(bufio.NewReaderSize(io.NewSectionReader(b.file, b.start, b.stop-b.start), 1<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			yield(backupPage{}, err)
			return
		}
		defer frames.Close()
		for {
			page, err := readFrame(frames)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(page, fmt.Errorf("its pages cannot be read: %w", err))
				return
			}
			if !yield(page, nil) {
				return
			}
		}
	}
}

func readFrame(r io.Reader) (p backupPage, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return p, err // io.EOF: there is no more
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame || head[0] != frameEvents && head[0] != frameKeys {
		return p, fmt.Errorf("a page of kind %q with %d bytes", head[0], n)
	}
	p = backupPage{kind: head[0], data: make([]byte, n)}
	if _, err := io.ReadFull(r, p.data); err != nil {
		return p, io.ErrUnexpectedEOF
	}
	if p.kind == frameKeys {
		first, keys, err := api.DecodeBackupKeys(p.data)
		p.last = first + uint64(len(keys))
		return p, err
	}
	events, err := api.DecodeBackupEvents(p.data)
	if err == nil {
		p.last = events[len(events)-1].Position
	}
	return p, err
}
