package api

import (
	"errors"
	"fmt"
)

// Header names a service reply carries when it reports an error, as the NATS micro protocol (ADR-32) defines them.
const (
	HeaderError     = "Nats-Service-Error"
	HeaderErrorCode = "Nats-Service-Error-Code"
)

// Error is what a request gets instead of a result. It is matched by its ErrCode, so errors.Is(err, api.ErrNoLeader) holds for every no_leader,
// whatever its description says.
type Error struct {
	Code        int    `json:"code"`        // HTTP-like class: 4xx the request must change, 503 and 504 it may be sent again
	ErrCode     int    `json:"err_code"`    // stable number from the table; never reused
	Name        string `json:"name"`        // stable name from the table, such as "no_leader"
	Description string `json:"description"` // a sentence for people: what happened and what to do

	// ActualVersion is the stream's last version when a version expectation failed; -1 means that the stream does not exist.
	ActualVersion *int64 `json:"actual_version,omitempty"`
	// Leader is the node that leads the store, when a node that does not lead it knows.
	Leader string `json:"leader,omitempty"`
	// RetryAfterMS is how many milliseconds to wait before the request is sent again, where the node knows.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
	// Failed is every condition of an append that did not hold, in the order of the request.
	Failed []FailedCondition `json:"failed,omitempty"`
}

// FailedCondition is a condition that did not hold when the append was to be written.
type FailedCondition struct {
	Index int `json:"index"` // in conditions; -1 stands for the append's expected_version
	// Of a condition on a stream: what was wanted, and the last version there; -1 means that the stream does not exist.
	Stream          string `json:"stream,omitempty"`
	ExpectedVersion *int64 `json:"expected_version,omitempty"`
	ActualVersion   *int64 `json:"actual_version,omitempty"`
	// Of a query: the position of the last event that matches, and the position behind which none was to be.
	Position uint64  `json:"position,omitempty"`
	After    *uint64 `json:"after,omitempty"`
}

// Error returns "name: description".
func (e *Error) Error() string { return e.Name + ": " + e.Description }

// Is reports whether target is an *Error with the same ErrCode.
func (e *Error) Is(target error) bool {
	var t *Error
	return e != nil && errors.As(target, &t) && t.ErrCode == e.ErrCode
}

// With returns a copy of e that is described by the formatted sentence.
func (e *Error) With(format string, args ...any) *Error {
	c := *e
	c.Description = fmt.Sprintf(format, args...)
	return &c
}

// Retryable reports whether sending the same request again may succeed. After ErrOutcomeUnknown a retry is safe only with
// the same event ids.
func (e *Error) Retryable() bool { return e.Code == 503 || e.Code == 504 || e.Code == 429 }

// The error table. subjects.md prints it; a test holds the two together.
var (
	ErrBadRequest           = def(400, 20400, "bad_request", "the request is not valid; the description says which field and why")
	ErrBadSubject           = def(400, 20401, "bad_subject", "the subject is not one of the grammar; see subjects.md")
	ErrBadName              = def(400, 20402, "bad_name", "a name holds characters that are not allowed, is empty, reserved or too long")
	ErrUnknownVerb          = def(404, 20403, "unknown_verb", "no such verb; the description lists those there are")
	ErrStoreNotFound        = def(404, 20404, "store_not_found", "no such store; create it with es.config.write.put.<store>")
	ErrStreamNotFound       = def(404, 20405, "stream_not_found", "the stream has no events, or is deleted")
	ErrConfigNotFound       = def(404, 20406, "config_not_found", "no configuration record of that name")
	ErrSnapshotNotFound     = def(404, 20407, "snapshot_not_found", "the stream has no such snapshot")
	ErrWrongVersion         = def(409, 20409, "wrong_expected_version", "the stream is not at the expected version; actual_version says where it is")
	ErrEventIDConflict      = def(409, 20410, "event_id_conflict", "an event id was used before for something else; give new events new ids")
	ErrCondition            = def(409, 20411, "condition_failed", "conditions of the append do not hold; failed says which, and where the streams or the matching events are")
	ErrTooLarge             = def(413, 20413, "payload_too_large", "the request or one of its events exceeds a limit; split it")
	ErrOverloaded           = def(429, 20429, "overloaded", "too many requests are waiting at this node; slow down and retry")
	ErrDiskBehind           = def(503, 20430, "disk_behind", "the store's leader has applied more than its disk has taken; nothing was written; slow down and retry")
	ErrRateLimited          = def(429, 20431, "rate_limited", "the store takes no more appends a second; nothing was written; retry after retry_after_ms")
	ErrStoreFull            = def(507, 20432, "store_full", "the store has reached a limit of its record; nothing was written; raise the limit or make room")
	ErrRestoring            = def(409, 20433, "store_restoring", "a backup is being restored into the store; nothing else is done meanwhile")
	ErrStoreNotEmpty        = def(409, 20434, "store_not_empty", "a backup is restored into a store that is empty")
	ErrRestoreRefused       = def(409, 20435, "restore_refused", "a step of a restore does not fit what is there; the description says why")
	ErrBackupSetGone        = def(404, 20436, "backup_set_gone", "the node does not keep this set of keys any more; begin anew")
	ErrSubscriptionNotFound = def(404, 20440, "subscription_not_found", "the store has no subscription of that name; create it with es.<store>.write.subscription.create.<name>")
	ErrSubscriptionExists   = def(409, 20441, "subscription_exists", "there is a subscription of that name with another config; choose another name, or delete it first")
	ErrInternal             = def(500, 20500, "internal", "the node failed to carry out the request; its log says why")
	ErrReplicaDamaged       = def(503, 20501, "replica_damaged", "this node's replica of the store is damaged, set aside or cannot be opened; ask again to reach another node")
	ErrNoLeader             = def(503, 20503, "no_leader", "no node leads the store now; nothing was written; retry shortly")
	ErrNotLeader            = def(503, 20504, "not_leader", "this node does not lead the store; leader says who does; nothing was written")
	ErrShuttingDown         = def(503, 20505, "shutting_down", "the node is stopping; nothing was written; retry to reach another node")
	ErrNotReady             = def(503, 20506, "not_ready", "the node is starting, or cannot serve this now; its words say why; nothing was written; retry shortly")
	ErrOutcomeUnknown       = def(504, 20507, "outcome_unknown", "the write may or may not take effect; retry with the same event ids to find out")
	ErrTimeout              = def(504, 20508, "timeout", "no answer in time; a read changes nothing and may be repeated")
	ErrPositionAhead        = def(503, 20509, "position_not_reached", "this node has not applied min_position yet; retry shortly")
	ErrTransferFailed       = def(503, 20510, "transfer_failed", "leadership was not moved; the description says why")
	ErrUnknownNode          = def(404, 20511, "node_not_found", "no such member of the cluster")
	ErrUnknownFormat        = def(500, 20513, "unknown_entry", "a replicated entry needs a newer version of this program")
	ErrReservedName         = def(400, 20514, "reserved_name", "the store name is reserved for the cluster itself")
	ErrStreamDeleted        = def(410, 20516, "stream_deleted", "the stream was deleted for ever by a hard delete; nothing can be written to it; use another name")
	ErrFeature              = def(503, 20515, "feature_unavailable", "a member of the store cannot carry out this request yet; nothing was written; upgrade the node that the description names")
)

var table []*Error

func def(code, errCode int, name, description string) *Error {
	e := &Error{Code: code, ErrCode: errCode, Name: name, Description: description}
	table = append(table, e)
	return e
}

// Errors returns the whole error table, in the order of declaration.
func Errors() []*Error { return append([]*Error(nil), table...) }

// AsError returns err as an *Error, wrapping anything else as ErrInternal with err's text.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return ErrInternal.With("%v", err)
}
