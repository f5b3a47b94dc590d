package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// ErrOutcomeUnknown is matched by the error of a write that may or may not have taken effect: ctx ended, or the connection was closed, before an answer came. It is never
// returned by a read, and never for a write that was surely refused. An append may be sent again with the same events, whose ids were stamped by then: it
// is written once, and the answer tells.
var ErrOutcomeUnknown error = api.ErrOutcomeUnknown

// effect says what it means to send a request twice.
type effect int

const (
	reads   effect = iota // changes nothing
	safe                  // has the same effect once or twice, and the same answer: a refusal says that no try before had any
	guarded               // has no second effect on what somebody did since the first, but may be refused for it: that says nothing of the first
	single                // may have another effect or answer the second time
)

// unless is safe when what the request says keeps a second try from meeting what somebody did since the first, and single when not.
func unless(idempotent bool) effect {
	if idempotent {
		return safe
	}
	return single
}

// request is one call.
type request struct {
	subject string
	effect  effect
	body    any
	header  nats.Header
	try     time.Duration // bounds one try; 0: the client's
	wait    time.Duration // the cluster may wait so long before it answers; comes on top
	final   *api.Error    // is not tried again, though another try may help; nil: there is none
}

// firstTry bounds the first try of what may be sent twice: a request that was at a leader when it died gets no answer, and the next one reaches the new leader by then.
const firstTry = 1500 * time.Millisecond

// retryPause lies between tries, doubled each time up to retryPauseMax.
const (
	retryPause    = 25 * time.Millisecond
	retryPauseMax = 500 * time.Millisecond
)

// errLost ends the tries that were under way when the connection was lost: their replies will not come.
var errLost = errors.New("the connection was lost before the answer came")

// call sends the request until it is answered for good or ctx is done, and returns the answer.
func call[T any, P interface {
	*T
	Failure() *api.Error
}](ctx context.Context, c *Client, r request) (*T, error) {
	if err := c.check(r.subject); err != nil {
		return nil, fmt.Errorf("%s: %w", r.subject, err)
	}
	payload, err := api.Marshal(r.body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.subject, err)
	}
	if limit := c.nc.MaxPayload(); limit > 0 && int64(len(payload)) > limit {
		return nil, fmt.Errorf("%s: %w", r.subject, api.ErrTooLarge.With("the request has %d bytes; at most %d are allowed; split it", len(payload), limit))
	}
	try := r.try
	if try == 0 {
		if try = c.try; r.effect != single {
			try = min(try, firstTry)
		}
		r.try = c.try
	}
	var last error
	unknown := false // an earlier try may have taken effect
	for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
		if ctx.Err() != nil {
			return nil, explain(r, context.Cause(ctx), last, unknown)
		}
		m, err := c.once(ctx, r, try+r.wait, payload)
		try = r.try
		if err == nil {
			v := P(new(T))
			if err := api.UnmarshalReply(m.Data, v); err != nil {
				return nil, explain(r, nil, fmt.Errorf("the reply is not understood: %w", err), r.effect != reads)
			}
			failure := v.Failure()
			if failure == nil {
				return (*T)(v), nil
			}
			err = failure
		}
		again, maybe := retryable(err)
		again = again && (r.final == nil || !errors.Is(err, r.final))
		if r.effect != reads {
			unknown = unknown || maybe
		}
		if isAnswer(err) || last == nil || ctx.Err() == nil {
			last = err
		}
		if !again || maybe && r.effect == single {
			settled := isAnswer(err) && !maybe && r.effect == safe // it found out what became of the earlier tries
			return nil, explain(r, nil, err, unknown && !settled)
		}
		timer := time.NewTimer(max(pause/2+rand.N(pause), retryAfter(err)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// check refuses a subject that no node would hear of, since NATS takes none with an empty token, so that it is not tried until ctx ends.
func (c *Client) check(subject string) error {
	p, refused := c.subjects.Parse(subject)
	if refused != nil {
		return refused
	}
	verb, known := api.FindVerb(p)
	switch {
	case known && verb.Name == "<name>": // of a subscription
		refused = api.CheckSubscriptionName(p.Name)
	case p.Name != "": // of a store or node too: they are told more by those who answer
		refused = api.CheckStreamName(p.Name)
	}
	if refused != nil {
		return refused
	}
	return nil
}

// once sends the request and waits for its answer, until the try's time is over or the connection is lost.
func (c *Client) once(ctx context.Context, r request, limit time.Duration, payload []byte) (*nats.Msg, error) {
	try, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	try, lost := context.WithCancelCause(try)
	defer c.watch.add(lost)()
	m, err := c.nc.RequestMsgWithContext(try, &nats.Msg{Subject: r.subject, Data: payload, Header: r.header})
	if err != nil && context.Cause(try) == errLost {
		return nil, errLost
	}
	return m, err
}

func isAnswer(err error) bool {
	var e *api.Error
	return errors.As(err, &e)
}

// retryable reports whether another try may help, and whether this one may have taken effect.
func retryable(err error) (again, maybe bool) {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e.Retryable(), errors.Is(e, api.ErrOutcomeUnknown) || errors.Is(e, api.ErrTimeout) // a store may be created before anybody leads it
	case errors.Is(err, nats.ErrNoResponders):
		return true, false
	case errors.Is(err, nats.ErrReconnectBufExceeded): // it did not leave this process
		return true, false
	case errors.Is(err, nats.ErrConnectionClosed):
		return false, true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, errLost),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return true, true
	}
	return false, false
}

// retryAfter returns how long the cluster says to wait.
func retryAfter(err error) time.Duration {
	var e *api.Error
	if errors.As(err, &e) {
		return time.Duration(e.RetryAfterMS) * time.Millisecond
	}
	return 0
}

// explain says what is known after the last try: a write without a definite answer is ErrOutcomeUnknown, never a failure. ended is why ctx ended, if it did; the result
// matches it with errors.Is, and the last answer of the cluster too.
func explain(r request, ended, last error, unknown bool) error {
	if errors.Is(last, nats.ErrNoResponders) {
		last = fmt.Errorf("%w: no node answers on %q; is this a Quorate cluster, and is it up?", last, r.subject)
	}
	if r.effect == reads && errors.Is(last, api.ErrOutcomeUnknown) { // as the leader says of a fetch that it did not finish; nothing is unknown to the caller
		last = errors.New(last.Error())
	}
	switch {
	case last == nil || ended != nil && errors.Is(last, ended):
		last = ended
	case ended != nil:
		last = fmt.Errorf("%w; the last try: %w", ended, last)
	}
	if unknown && !errors.Is(last, api.ErrOutcomeUnknown) {
		last = fmt.Errorf("%w (%w)", api.ErrOutcomeUnknown, last)
	}
	return fmt.Errorf("%s: %w", r.subject, last)
}

// watch tells requests that wait when the connection they were sent on is lost, so that they are not waited for in vain.
type watch struct {
	mu      sync.Mutex // guards what is below
	next    uint64
	waiting map[uint64]context.CancelCauseFunc
}

// add has lost called with errLost when the connection is lost. The function it returns takes that back and frees what lost holds.
func (w *watch) add(lost context.CancelCauseFunc) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	id := w.next
	w.waiting[id] = lost
	return func() {
		w.mu.Lock()
		delete(w.waiting, id)
		w.mu.Unlock()
		lost(nil)
	}
}

// run ends when the connection is closed.
func (w *watch) run(nc *nats.Conn) {
	changes := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(changes)
	if nc.IsClosed() { // before we listened
		return
	}
	for status := range changes {
		w.mu.Lock()
		for _, lost := range w.waiting {
			lost(errLost)
		}
		w.mu.Unlock()
		if status == nats.CLOSED {
			return
		}
	}
}
