package natsbus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/quorate/quorate/api"
)

// message is a request as it arrived, whatever brought it: a post's subscription, a service endpoint, or a peer that forwards.
type message interface {
	Subject() string
	Reply() string
	Header() nats.Header
	Data() []byte
	// Respond sends the answer; failed says why it is an error, for the service's counters.
	Respond(data []byte, header nats.Header, failed *api.Error) error
}

// request is a message whose subject is parsed and whose reply may be answered.
type request struct {
	bus       *Bus
	message   message
	subject   api.Subject
	forwarded bool // it came from another node; it must not be sent on
	kept      int  // its bytes, taken of the bus's memory until it is answered
	added     int  // bytes that the write has beyond those that arrived

	unsure *api.Error // an earlier try may have taken effect: then nothing that says otherwise is answered
}

// accept parses the subject and checks the reply subject. It returns nil when the message is dealt with already.
func (b *Bus) accept(m message) *request {
	r := &request{bus: b, message: m}
	if reply := m.Reply(); reply != "" && !b.isInbox(reply) {
		// It cannot be answered there, and an answer elsewhere would reach nobody: count it, say it in the log.
		if n := b.refused.Add(1); n == 1 || n%1000 == 0 {
			b.log.Warn("a request was refused: its reply subject is not an inbox", "subject", m.Subject(), "reply", reply, "refused", n,
				"hint", "use your client's request call, or start the server with --inbox-prefix")
		}
		return nil
	}
	if b.drained.Load() {
		r.fail(api.ErrShuttingDown.With("node %s is stopping; nothing was written; retry to reach another node", b.name))
		return nil
	}
	subject, err := b.subjects.Parse(m.Subject())
	if err != nil {
		r.fail(err)
		return nil
	}
	r.subject = subject
	if why := b.foreign(r); why != "" {
		r.fail(api.ErrNotReady.With("node %s carries out no requests, and nothing was written: %s", b.name, why))
		return nil
	}
	return r
}

// askerGone returns what tells that nobody listens to the reply subject any more; nil when that cannot be told here: another node answers the asker then.
func (r *request) askerGone() func() bool {
	reply := r.message.Reply()
	if r.forwarded || reply == "" {
		return nil
	}
	clients := r.bus.embedded.clients
	return func() bool { return clients.Interest(reply) == 0 }
}

// foreign says why the request must not be carried out here: another cluster is connected to this one, and the next request of the same client would go there. What is asked of the cluster itself is answered, so that it can
// be seen, and what another node of this cluster has accepted.
func (b *Bus) foreign(r *request) string {
	be := b.backend.Load()
	if be == nil || be.Directory == nil || r.subject.Store == api.ClusterStore && r.subject.Class == api.ClassRead {
		return ""
	}
	if _, peer := r.message.(peerMessage); peer {
		return ""
	}
	return be.Directory.Foreign()
}

// decode reads the payload into v, strictly. It answers the request itself when it cannot.
func (r *request) decode(v any) bool {
	if len(r.message.Data()) > api.MaxAppendRequest {
		r.fail(tooLarge(len(r.message.Data())))
		return false
	}
	if err := api.Unmarshal(r.message.Data(), v); err != nil {
		r.fail(err)
		return false
	}
	return true
}

func tooLarge(n int) *api.Error {
	return api.ErrTooLarge.With("the request has %d bytes; at most %d are allowed; split it", n, api.MaxAppendRequest)
}

// answer sends v, or the error when there is one.
func (r *request) answer(v any, err *api.Error) {
	if err != nil {
		r.fail(err)
		return
	}
	raw, merr := api.Marshal(v)
	if merr != nil {
		r.fail(api.ErrInternal.With("encode the reply: %v", merr))
		return
	}
	if len(raw) > api.MaxPayload {
		r.fail(api.ErrTooLarge.With("the reply has %d bytes, more than a message may have; ask for less with limit", len(raw)))
		return
	}
	r.send(raw, nil, nil)
}

// maxDescription is how long an error's description may be, in bytes: many repeat what was sent, and the answer carries them twice.
const maxDescription = 4096

// fail sends an error as JSON and in the headers of the NATS micro protocol.
func (r *request) fail(err *api.Error) {
	if len(err.Description) > maxDescription {
		err = err.With("%s…", strings.ToValidUTF8(err.Description[:maxDescription], ""))
	}
	typ := r.errorType()
	raw, merr := api.Marshal(api.Reply{Type: typ, Error: err})
	if merr != nil {
		raw = []byte(fmt.Sprintf(`{"type":%q}`, api.TypeError))
	}
	r.send(raw, nats.Header{
		api.HeaderError:     []string{err.Name + ": " + err.Description},
		api.HeaderErrorCode: []string{strconv.Itoa(err.Code)},
	}, err)
}

// giveUp fails a request that is not tried any more: with err, which says that nothing was written, unless an earlier try may have written it.
func (r *request) giveUp(err *api.Error) {
	if r.unsure != nil {
		err = r.unsure
	}
	r.fail(err)
}

// settle answers with the outcome of w's last try.
func (r *request) settle(w write, v any, err *api.Error) {
	if err != nil && !w.tells(err) {
		r.giveUp(err)
		return
	}
	r.answer(v, err)
}

// doubt notes the outcome of a try that is not the last.
func (r *request) doubt(err *api.Error) {
	if errors.Is(err, api.ErrOutcomeUnknown) {
		r.unsure = err
	}
}

// errorType is the type the reply would have had.
func (r *request) errorType() string {
	if v, ok := api.FindVerb(r.subject); ok {
		return v.Reply
	}
	return api.TypeError
}

// keep counts the request's bytes until it is answered. When there is no room for them it reports how many the store has.
func (r *request) keep() (used int, ok bool) {
	n := len(r.message.Data()) + r.added + 1
	if used, ok = r.bus.memory.take(r.subject.Store, n); ok {
		r.kept = n
	}
	return used, ok
}

func (r *request) send(data []byte, header nats.Header, failed *api.Error) {
	if r.kept > 0 {
		r.bus.memory.give(r.subject.Store, r.kept)
		r.kept = 0
	}
	if r.message.Reply() == "" {
		if failed != nil {
			r.bus.log.Debug("a request without a reply subject was refused", "subject", r.message.Subject(), "error", failed)
		}
		return
	}
	if err := r.message.Respond(data, header, failed); err != nil {
		r.bus.log.Warn("a reply was not sent", "subject", r.message.Subject(), "error", err)
	}
}

// rawMessage is a message of a plain subscription.
type rawMessage struct{ *nats.Msg }

func (m rawMessage) Subject() string     { return m.Msg.Subject }
func (m rawMessage) Reply() string       { return m.Msg.Reply }
func (m rawMessage) Header() nats.Header { return m.Msg.Header }
func (m rawMessage) Data() []byte        { return m.Msg.Data }

func (m rawMessage) Respond(data []byte, header nats.Header, _ *api.Error) error {
	return m.Msg.RespondMsg(&nats.Msg{Data: data, Header: header})
}

// natsMessage is a message of a service endpoint.
type natsMessage struct{ micro.Request }

func (m natsMessage) Subject() string     { return nearSubject(m.Request.Subject()) }
func (m natsMessage) Header() nats.Header { return nats.Header(m.Headers()) }

func (m natsMessage) Respond(data []byte, _ nats.Header, failed *api.Error) error {
	if failed != nil {
		return m.Request.Error(strconv.Itoa(failed.Code), failed.Name+": "+failed.Description, data)
	}
	return m.Request.Respond(data)
}

// Time limits of a request at a node.
const (
	readTimeout  = 5 * time.Second // beyond what the read asks to wait
	writeTimeout = 10 * time.Second
)
