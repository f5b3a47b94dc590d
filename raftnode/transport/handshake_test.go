package transport

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

func TestHandshakeFieldsAreBounded(t *testing.T) {
	h := handshake{kind: kindLog, cluster: strings.Repeat("c", 256)}
	if _, err := h.encode(); err == nil {
		t.Fatal("got a handshake with a field of 256 bytes, want a refusal")
	}
}

func TestAnswer(t *testing.T) {
	long := strings.Repeat("r", 300)
	for _, r := range []struct{ name, reason, want string }{
		{"welcome", "", ""},
		{"refused", "group 1-1 is not open here", "group 1-1 is not open here"},
		{"a long reason is cut", long, long[:255]},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := readAnswer(bufio.NewReader(bytes.NewReader(encodeAnswer(r.reason))))
			if (err != nil) != (r.want != "") || err != nil && err.Error() != ErrRefused.Error()+": "+r.want {
				t.Fatalf("got %v, want %q", err, r.want)
			}
		})
	}
	for cut := range encodeAnswer("no") {
		if readAnswer(bufio.NewReader(bytes.NewReader(encodeAnswer("no")[:cut]))) == nil {
			t.Fatalf("an answer that is cut off after %d bytes is a welcome", cut)
		}
	}
}

// What is understood is encoded again to the bytes that were read, and nothing more was read.
func FuzzHandshake(f *testing.F) {
	h := handshake{kind: kindLog, cluster: "c", from: "n1~a", to: "n2~b"}
	raw, _ := h.encode()
	f.Add(raw)
	f.Add(raw[:9])
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		br := bufio.NewReader(r)
		h, err := readHandshake(br)
		if err != nil {
			return
		}
		out, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		if read := len(in) - r.Len() - br.Buffered(); !bytes.Equal(out, in[:read]) {
			t.Fatalf("read %x, wrote %x", in[:read], out)
		}
	})
}
