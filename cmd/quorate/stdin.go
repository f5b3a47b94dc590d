package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/quorate/quorate/api"
)

// interruptible is a reader that ends with ctx, as standard input has to: nobody else ends a read of a terminal or a pipe when the user presses Ctrl-C.
type interruptible struct {
	ctx   context.Context
	from  io.Reader
	begin sync.Once // with the first Read: a command that does not read its input leaves it to others
	pipe  *io.PipeReader
}

func (r *interruptible) Read(p []byte) (int, error) {
	r.begin.Do(func() {
		out, in := io.Pipe()
		r.pipe = out
		context.AfterFunc(r.ctx, func() { in.CloseWithError(context.Cause(r.ctx)) })
		go func() { // ends with the input, or with the first read of it that returns after ctx is done: at the latest with the process
			_, err := io.Copy(in, r.from)
			in.CloseWithError(err)
		}()
	})
	return r.pipe.Read(p)
}

// payload returns what an argument says, or for - standard input: as JSON if it is JSON, else as bytes, every one of them kept, also the line end behind a text. White space
// around JSON is not part of it.
func payload(e *env, arg string) (asJSON json.RawMessage, asBytes []byte, err error) {
	data := []byte(arg)
	if arg == "-" {
		if data, err = io.ReadAll(io.LimitReader(e.stdin, api.MaxPayload+1)); err != nil {
			return nil, nil, fmt.Errorf("standard input: %w", err)
		}
		if len(data) > api.MaxPayload {
			return nil, nil, api.ErrTooLarge.With("standard input has more than %d bytes; at most %d are allowed as data", api.MaxPayload, api.MaxEventData)
		}
	}
	if json.Valid(data) && utf8.Valid(data) {
		return bytes.TrimSpace(data), nil, nil
	}
	return nil, data, nil
}

// maxLine bounds a line of NDJSON, which holds one event.
const maxLine = 2 * api.MaxEventData

// eachLine calls do with every line that is not empty, and its number, until there is an error.
func eachLine(in io.Reader, do func(n int, raw []byte) error) error {
	lines := bufio.NewReaderSize(in, maxLine)
	for n := 1; ; n++ {
		raw, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return remarkf(api.ErrTooLarge.With("a line has more than %d bytes; it is to hold one event", maxLine), "line %d", n)
		case err != nil && err != io.EOF: // what was read of the line is not all of it
			return remarkf(err, "line %d", n)
		}
		if len(bytes.TrimSpace(raw)) > 0 {
			if err := do(n, bytes.Clone(raw)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}
