package fsm

import "encoding/binary"

// Body encodes one command, for EncodeBodies.
func (a *Append) Body() []byte { return a.encode() }

// EncodeBodies makes an entry of commands that are encoded already. What it returns equals what Encode makes of the same commands.
func EncodeBodies(bodies [][]byte) []byte {
	size := 16
	for _, body := range bodies {
		size += len(body) + 8
	}
	b := make([]byte, 0, size)
	b = append(b, formatVersion)
	b = binary.AppendUvarint(b, uint64(len(bodies)))
	for _, body := range bodies {
		b = append(b, kindAppend)
		b = appendBytes(b, body)
	}
	return b
}
