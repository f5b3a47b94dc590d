package fsm

import (
	"encoding/binary"
	"strings"

	"github.com/quorate/quorate/api"
)

// An append over several streams, or with conditions:
//
//	several    time (varint, Unix µs) · expected (varint) · streams (uvarint) · stream (text)… · events (uvarint) · numbered… · conditions (uvarint) · condition…
//	numbered   stream (uvarint: its place in the list, from 0) · event as in command.go
//	condition  1 · stream (text) · version (varint)
//	           2 · after (uvarint) · items (uvarint) · item…
//	item       types · type prefixes · tags · stream prefixes, each a count (uvarint) and so many texts
//
// Streams are listed in the order in which events first name them, so one append has one encoding.
const (
	conditionStream = 1
	conditionQuery  = 2
)

func (a *Append) encodeSeveral() []byte {
	size := 256
	for i := range a.Events {
		size += 64 + len(a.Events[i].Data) + len(a.Events[i].Metadata)
	}
	b := make([]byte, 0, size)
	b = binary.AppendVarint(b, a.Time)
	b = binary.AppendVarint(b, a.Expected)
	b = binary.AppendUvarint(b, uint64(len(a.Others)+1))
	b = appendBytes(b, a.Stream)
	for _, s := range a.Others {
		b = appendBytes(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(a.Events)))
	for i := range a.Events {
		b = binary.AppendUvarint(b, uint64(a.streamOf(i)))
		b = a.Events[i].encode(b)
	}
	b = binary.AppendUvarint(b, uint64(len(a.Conditions)))
	for i := range a.Conditions {
		b = encodeCondition(b, &a.Conditions[i])
	}
	return b
}

func encodeCondition(b []byte, c *api.Condition) []byte {
	if c.Query == nil {
		b = append(b, conditionStream)
		b = appendBytes(b, c.Stream)
		return binary.AppendVarint(b, *c.Version)
	}
	b = append(b, conditionQuery)
	b = binary.AppendUvarint(b, c.After)
	b = binary.AppendUvarint(b, uint64(len(c.Query.Items)))
	for i := range c.Query.Items {
		it := &c.Query.Items[i]
		for _, texts := range [][]string{it.Types, it.TypePrefixes, it.Tags, it.StreamPrefixes} {
			b = binary.AppendUvarint(b, uint64(len(texts)))
			for _, t := range texts {
				b = appendBytes(b, t)
			}
		}
	}
	return b
}

// streamOf returns the place of event i's stream: 0 is Stream, i is Others[i-1].
func (a *Append) streamOf(i int) int {
	if a.Of == nil {
		return 0
	}
	return a.Of[i]
}

func (a *Append) streamName(place int) string {
	if place == 0 {
		return a.Stream
	}
	return a.Others[place-1]
}

// results returns a result for each of several streams; nil when there is one.
func (a *Append) results() []api.StreamResult {
	if len(a.Others) == 0 {
		return nil
	}
	return make([]api.StreamResult, len(a.Others)+1)
}

// result notes in results where event i is.
func (a *Append) result(results []api.StreamResult, i int, version, position uint64) {
	if results == nil {
		return
	}
	at := a.streamOf(i)
	r := &results[at]
	if r.Stream == "" {
		*r = api.StreamResult{Stream: strings.Clone(a.streamName(at)), FirstVersion: version, FirstPosition: position}
	}
	r.Version, r.Position = version, position
}

// writeSeveral appends the events to their streams, in their order.
func (a *applier) writeSeveral(c *Append, raws [][]byte) (AppendResult, error) {
	heads := make([]*head, len(c.Others)+1)
	for i := range heads {
		var err error
		if heads[i], err = a.head(c.streamName(i)); err != nil {
			return AppendResult{}, err
		}
	}
	for i, h := range heads {
		a.number(h, c.streamName(i))
	}
	res := AppendResult{FirstPosition: a.st.position + 1, Streams: c.results()}
	a.o.terms.mu.Lock()
	for i := range c.Events {
		h := heads[c.streamOf(i)]
		a.write(c, i, h, raws[i])
		c.result(res.Streams, i, h.count-1, a.st.position)
	}
	a.o.terms.mu.Unlock()
	res.Position = a.st.position
	for i, h := range heads {
		if a.st.trimmed == 0 {
			break
		}
		if err := a.written(c.streamName(i), h); err != nil {
			return res, err
		}
	}
	return res, nil
}

func (d *decoder) several(body []byte) error {
	r := reader{rest: body, share: d.share}
	a := d.next()
	a.Time, a.Expected = r.varint(), r.varint()
	streams := r.count(1)
	if streams == 0 {
		r.fail()
	}
	for i := range streams {
		if name := r.text(); i == 0 {
			a.Stream = name
		} else {
			a.Others = append(a.Others, name)
		}
	}
	n := r.count(7)
	d.room(a, n)
	named := 0 // streams that an event named so far
	if streams > 1 {
		a.Of = make([]int, n)
	}
	for i := range n {
		at := r.uvarint()
		switch {
		case at == uint64(named):
			named++
		case at > uint64(named):
			r.fail()
		}
		if a.Of != nil && at < uint64(streams) {
			a.Of[i] = int(at)
		}
		d.event(&r, a)
	}
	// An append that writes nothing to a stream it lists, or that kind 1 could say, is not what Encode writes.
	if named != streams && (streams > 1 || n > 0) {
		r.fail()
	}
	if n := r.count(3); n > 0 {
		a.Conditions = make([]api.Condition, n)
		for i := range a.Conditions {
			a.Conditions[i] = r.condition()
		}
	} else if streams == 1 {
		r.fail()
	}
	return r.end()
}

func (r *reader) condition() (c api.Condition) {
	switch r.byte() {
	case conditionStream:
		c.Stream = r.text()
		version := r.varint()
		c.Version = &version
	case conditionQuery:
		c.After = r.uvarint()
		c.Query = &api.Query{Items: make([]api.QueryItem, r.count(4))}
		for i := range c.Query.Items {
			it := &c.Query.Items[i]
			it.Types, it.TypePrefixes, it.Tags, it.StreamPrefixes = r.texts(), r.texts(), r.texts(), r.texts()
		}
	default:
		r.fail()
	}
	return c
}

func (r *reader) texts() []string {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	texts := make([]string, n)
	for i := range texts {
		texts[i] = r.text()
	}
	return texts
}
