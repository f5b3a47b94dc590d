package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/quorate/quorate/api"
)

// terminal is a standard input that nobody types at. It tells that it is being read.
type terminal struct {
	reading chan struct{}
	typed   *io.PipeReader
}

func newTerminal(t *testing.T) *terminal {
	typed, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return &terminal{make(chan struct{}), typed}
}

func (r *terminal) Read(p []byte) (int, error) {
	close(r.reading)
	return r.typed.Read(p)
}

// TestInterruptedWhileReading: signals end a command's context; one that waits for standard input then ends as well, as any that is interrupted.
func TestInterruptedWhileReading(t *testing.T) {
	for _, args := range [][]string{{"append", "orders", "s", "T", "-"}, {"snapshot", "put", "orders", "s", "1", "-"}, {"restore", "orders", "-"}} {
		t.Run(args[0], func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			stdin := newTerminal(t)
			go func() { <-stdin.reading; cancel() }()
			var errs bytes.Buffer
			code := run(&env{ctx: ctx, stdin: stdin, stdout: io.Discard, stderr: &errs}, args)
			if code != exitRefused || !strings.Contains(errs.String(), "interrupted") {
				t.Errorf("exit code %d, %s", code, &errs)
			}
		})
	}
}

func TestPayload(t *testing.T) {
	for _, row := range []struct {
		name, in string
		json     string // else it is bytes, as they are
	}{
		{"an object", `{"total": 12}`, `{"total": 12}`},
		{"an object that echo wrote", "{\"total\": 12}\n", `{"total": 12}`},
		{"a text of two lines", "tea\npot\n\n", ""},
		{"bytes that end with line ends", "\x89PNG\x00\n\n", ""},
		{"a JSON text that is not UTF-8", "\"\xff\"", ""},
		{"only a line end", "\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, from := range []struct{ arg, stdin string }{{row.in, ""}, {"-", row.in}} {
				asJSON, asBytes, err := payload(&env{stdin: strings.NewReader(from.stdin)}, from.arg)
				if err != nil || string(asJSON) != row.json || row.json == "" && string(asBytes) != row.in || row.json != "" && asBytes != nil {
					t.Errorf("%q: JSON %q, bytes %q, %v", from.arg, asJSON, asBytes, err)
				}
			}
		})
	}
	if _, _, err := payload(&env{stdin: strings.NewReader(strings.Repeat(" ", api.MaxPayload+1))}, "-"); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("too much: %v", err)
	}
}

func TestEachLine(t *testing.T) {
	broken := errors.New("the disk is gone")
	for _, row := range []struct {
		name string
		in   io.Reader
		want []string
		err  error
		says string
	}{
		{"lines", strings.NewReader("a\n\n  \nb\n"), []string{"1 a\n", "4 b\n"}, nil, ""},
		{"no line end behind the last", strings.NewReader("a\nb"), []string{"1 a\n", "2 b"}, nil, ""},
		{"refused", strings.NewReader("a\nno\nb\n"), []string{"1 a\n"}, api.ErrBadRequest, ""},
		{"cut off by an error: half a line is none", io.MultiReader(strings.NewReader("a\nhal"), iotest.ErrReader(broken)), []string{"1 a\n"}, broken, "line 2"},
		{"a line without an end", io.MultiReader(strings.NewReader("a\n"), strings.NewReader(strings.Repeat("x", maxLine+1))), []string{"1 a\n"}, api.ErrTooLarge, "line 2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			err := eachLine(row.in, func(n int, raw []byte) error {
				if string(raw) == "no\n" {
					return api.ErrBadRequest
				}
				got = append(got, fmt.Sprint(n, " ", string(raw)))
				return nil
			})
			if !slices.Equal(got, row.want) || !errors.Is(err, row.err) || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %q and %v, want %q and %v", got, err, row.want, row.err)
			}
		})
	}
}
