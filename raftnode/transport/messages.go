package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Raft's messages; see codec.go for their parts, frame.go for how they travel:
//
//	question           op (1) · group (bytes) · one of
//	  header           protocol version (number) · id (ident) · address (ident)
//	  AppendEntries    header · term · previous index · previous term · commit index (numbers) · count (number) · entries
//	    entry          1 extensions, 2 time (1) · type (1) · index − (index before + 1) · term − term before (numbers, mod 2^64)
//	                   · data (bytes) · extensions (bytes, if any) · appended at (time, if any)
//	  RequestVote      header · term · last index · last term (numbers) · leadership transfer (flag)
//	  RequestPreVote   header · term · last index · last term (numbers)
//	  TimeoutNow       header
//	  InstallSnapshot  header · version · term (numbers) · leader (ident) · last index · last term (numbers) · peers (bytes)
//	                   · configuration (bytes) · its index · size (numbers)
//	  Call             method (1) · body to the end; no group
//	answer             status (1: 0 = as asked) · one of
//	  AppendEntries    header · term · last index (numbers) · success · no backoff (flags)
//	  RequestVote      header · term (number) · peers (bytes) · granted (flag)
//	  RequestPreVote   header · term (number) · granted (flag)
//	  TimeoutNow       header
//	  InstallSnapshot  header · term (number) · success (flag)
//	  Call             body to the end
//	  (status 1)       why not, as text to the end
//
// Leader and Candidate, which raft fills in for versions without the header's address, do not travel. "index before" begins with the request's previous index, so that entries without gaps in one term cost two zero bytes for both.
const (
	opAppendEntries   = 1
	opRequestVote     = 2
	opRequestPreVote  = 3
	opTimeoutNow      = 4
	opInstallSnapshot = 5
	opCall            = 16

	statusOK    = 0
	statusError = 1

	entryExtensions = 1
	entryTime       = 2
	entrySmallest   = 5    // bytes
	maxEntries      = 1024 // in a message; raft's configuration takes no more
)

// entryBytes bounds what an entry takes in a message.
func entryBytes(e *raft.Log) int {
	return 2 + 4*binary.MaxVarintLen64 + 2*binary.MaxVarintLen64 + len(e.Data) + len(e.Extensions)
}

func appendHeader(b []byte, self string, h *raft.RPCHeader) []byte {
	b = binary.AppendUvarint(b, uint64(h.ProtocolVersion))
	b = appendIdent(b, self, h.ID)
	return appendIdent(b, self, h.Addr)
}

func (d *decoder) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.int()), ID: d.ident(), Addr: d.ident()}
}

// appendQuestion encodes the request that self asks the group at a peer.
func appendQuestion(b []byte, self, group string, req any) ([]byte, error) {
	op, err := opOf(req)
	if err != nil {
		return nil, err
	}
	b = append(b, op)
	b = binary.AppendUvarint(b, uint64(len(group)))
	b = append(b, group...)
	num := binary.AppendUvarint
	switch m := req.(type) {
	case *raft.AppendEntriesRequest:
		b = num(num(num(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.PrevLogEntry), m.PrevLogTerm), m.LeaderCommitIndex)
		b = num(b, uint64(len(m.Entries)))
		index, term := m.PrevLogEntry, m.PrevLogTerm
		for _, e := range m.Entries {
			b = appendEntry(b, e, index+1, term)
			index, term = e.Index, e.Term
		}
	case *raft.RequestVoteRequest:
		b = appendFlag(num(num(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.LastLogIndex), m.LastLogTerm), m.LeadershipTransfer)
	case *raft.RequestPreVoteRequest:
		b = num(num(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.LastLogIndex), m.LastLogTerm)
	case *raft.TimeoutNowRequest:
		b = appendHeader(b, self, &m.RPCHeader)
	case *raft.InstallSnapshotRequest:
		b = num(num(appendHeader(b, self, &m.RPCHeader), uint64(m.SnapshotVersion)), m.Term)
		b = num(num(appendIdent(b, self, m.Leader), m.LastLogIndex), m.LastLogTerm)
		b = appendBytes(appendBytes(b, m.Peers), m.Configuration)
		b = num(num(b, m.ConfigurationIndex), uint64(m.Size))
	}
	return b, nil
}

func opOf(req any) (byte, error) {
	switch req.(type) {
	case *raft.AppendEntriesRequest:
		return opAppendEntries, nil
	case *raft.RequestVoteRequest:
		return opRequestVote, nil
	case *raft.RequestPreVoteRequest:
		return opRequestPreVote, nil
	case *raft.TimeoutNowRequest:
		return opTimeoutNow, nil
	case *raft.InstallSnapshotRequest:
		return opInstallSnapshot, nil
	}
	return 0, fmt.Errorf("a %T cannot be sent", req)
}

func appendEntry(b []byte, e *raft.Log, index, term uint64) []byte {
	var has byte
	if len(e.Extensions) > 0 {
		has |= entryExtensions
	}
	if !e.AppendedAt.IsZero() {
		has |= entryTime
	}
	b = append(b, has, byte(e.Type))
	b = binary.AppendUvarint(b, e.Index-index)
	b = binary.AppendUvarint(b, e.Term-term)
	b = appendBytes(b, e.Data)
	if has&entryExtensions != 0 {
		b = appendBytes(b, e.Extensions)
	}
	if has&entryTime != 0 {
		b = appendTime(b, e.AppendedAt)
	}
	return b
}

// address reads whom a question is for.
func (d *decoder) address() (op byte, group []byte) {
	op = d.byte()
	return op, d.bytes()
}

// request reads what follows the address. Data and extensions of entries are parts of the message's buffer, which is then theirs.
func (d *decoder) request(op byte) (any, error) {
	var req any
	switch op {
	case opAppendEntries:
		m := &raft.AppendEntriesRequest{
			RPCHeader: d.header(), Term: d.number(), PrevLogEntry: d.number(), PrevLogTerm: d.number(), LeaderCommitIndex: d.number(),
		}
		m.Entries = d.entries(m.PrevLogEntry, m.PrevLogTerm)
		req = m
	case opRequestVote:
		req = &raft.RequestVoteRequest{
			RPCHeader: d.header(), Term: d.number(), LastLogIndex: d.number(), LastLogTerm: d.number(), LeadershipTransfer: d.flag(),
		}
	case opRequestPreVote:
		req = &raft.RequestPreVoteRequest{RPCHeader: d.header(), Term: d.number(), LastLogIndex: d.number(), LastLogTerm: d.number()}
	case opTimeoutNow:
		req = &raft.TimeoutNowRequest{RPCHeader: d.header()}
	case opInstallSnapshot:
		req = &raft.InstallSnapshotRequest{
			RPCHeader: d.header(), SnapshotVersion: raft.SnapshotVersion(d.int()), Term: d.number(), Leader: d.ident(), LastLogIndex: d.number(), LastLogTerm: d.number(),
			Peers: d.bytes(), Configuration: d.bytes(), ConfigurationIndex: d.number(), Size: int64(d.int()),
		}
	default:
		return nil, fmt.Errorf("%w: no question is of kind %d", errMessage, op)
	}
	return req, d.end()
}

func (d *decoder) entries(index, term uint64) []*raft.Log {
	n := d.number()
	if n > uint64(len(d.b)/entrySmallest) {
		d.fail("there are fewer entries than it says")
		return nil
	}
	if n > maxEntries { // an entry takes some twenty times the memory that the smallest takes in the message
		d.fail("there are more entries than raft sends")
		return nil
	}
	if n == 0 {
		return nil
	}
	logs, entries := make([]raft.Log, n), make([]*raft.Log, n)
	for i := range logs {
		e := &logs[i]
		has := d.byte()
		if has > entryExtensions|entryTime {
			d.fail("an entry has unknown parts")
		}
		e.Type = raft.LogType(d.byte())
		e.Index = d.number() + index + 1
		e.Term = d.number() + term
		e.Data = d.bytes()
		if has&entryExtensions != 0 {
			if e.Extensions = d.bytes(); e.Extensions == nil {
				d.fail("an entry's extensions are empty")
			}
		}
		if has&entryTime != 0 {
			e.AppendedAt = d.time()
		}
		index, term = e.Index, e.Term
		entries[i] = e
	}
	return entries
}

// appendReply encodes what raft answered: the response, or the error alone.
func appendReply(b []byte, self string, resp any, err error) []byte {
	start := len(b)
	b = append(b, statusOK)
	num := binary.AppendUvarint
	switch m := resp.(type) {
	case *raft.AppendEntriesResponse:
		b = num(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.LastLog)
		b = appendFlag(appendFlag(b, m.Success), m.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		b = appendBytes(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.Peers)
		b = appendFlag(b, m.Granted)
	case *raft.RequestPreVoteResponse:
		b = appendFlag(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.Granted)
	case *raft.TimeoutNowResponse:
		b = appendHeader(b, self, &m.RPCHeader)
	case *raft.InstallSnapshotResponse:
		b = appendFlag(num(appendHeader(b, self, &m.RPCHeader), m.Term), m.Success)
	default:
		if err == nil {
			err = fmt.Errorf("a %T cannot be sent", resp)
		}
	}
	if err != nil {
		return appendError(b[:start], err)
	}
	return b
}

func appendError(b []byte, err error) []byte {
	return append(append(b, statusError), err.Error()...)
}

// reply reads an answer into resp, a pointer to raft's response or to a Call's bytes. resp is as it was when there is an error. Nothing of the
// message's buffer is kept.
func (d *decoder) reply(resp any) error {
	switch status := d.byte(); {
	case d.err != nil:
		return d.err
	case status == statusError:
		return &RemoteError{Text: string(d.b)}
	case status != statusOK:
		return fmt.Errorf("%w: status %d", errMessage, status)
	}
	switch m := resp.(type) {
	case *raft.AppendEntriesResponse:
		v := raft.AppendEntriesResponse{RPCHeader: d.ownHeader(), Term: d.number(), LastLog: d.number(), Success: d.flag(), NoRetryBackoff: d.flag()}
		return put(d, m, v)
	case *raft.RequestVoteResponse:
		v := raft.RequestVoteResponse{RPCHeader: d.ownHeader(), Term: d.number(), Peers: clone(d.bytes()), Granted: d.flag()}
		return put(d, m, v)
	case *raft.RequestPreVoteResponse:
		v := raft.RequestPreVoteResponse{RPCHeader: d.ownHeader(), Term: d.number(), Granted: d.flag()}
		return put(d, m, v)
	case *raft.TimeoutNowResponse:
		return put(d, m, raft.TimeoutNowResponse{RPCHeader: d.ownHeader()})
	case *raft.InstallSnapshotResponse:
		v := raft.InstallSnapshotResponse{RPCHeader: d.ownHeader(), Term: d.number(), Success: d.flag()}
		return put(d, m, v)
	case *[]byte:
		*m = clone(d.b)
		return nil
	}
	return errors.New("nobody knows what this answers")
}

func put[T any](d *decoder, to *T, v T) error {
	if err := d.end(); err != nil {
		return err
	}
	*to = v
	return nil
}

// ownHeader reads a header that outlives the message's buffer.
func (d *decoder) ownHeader() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.int()), ID: d.ownIdent(), Addr: d.ownIdent()}
}

func (d *decoder) ownIdent() []byte {
	sender := len(d.b) > 0 && d.b[0] == identSender
	v := d.ident()
	if sender {
		return v
	}
	return clone(v)
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }
