package api

import "strings"

// DefaultPrefix begins every subject unless a cluster is started with another.
const DefaultPrefix = "es"

// Classes of subjects: what permissions are about.
const (
	ClassWrite = "write" // reaches the leader only
	ClassRead  = "read"  // served by any node
	ClassEvent = "event" // published by the cluster
	// ClassCloudEvent is published by the cluster too: the same events in structured mode, for subscribers that take nothing else.
	ClassCloudEvent = "cloudevent"
)

// verbSubscription begins the write verbs of subscriptions: subscription.create and so on.
const verbSubscription = "subscription"

// Subject is a parsed subject: <prefix>.<store>.<class>.<verb>[.<name>].
type Subject struct {
	Store string // a store's name, or config or cluster
	Class string
	Verb  string
	Name  string // the rest; may hold dots
}

// Subjects makes and parses subjects under one prefix. The zero value uses DefaultPrefix.
type Subjects struct{ Prefix string }

func (s Subjects) prefix() string {
	if s.Prefix == "" {
		return DefaultPrefix
	}
	return s.Prefix
}

// Of joins the tokens under the prefix.
func (s Subjects) Of(tokens ...string) string {
	return s.prefix() + "." + strings.Join(tokens, ".")
}

// Write returns the subject of a store's write verb; an empty name is left out.
func (s Subjects) Write(store, verb, name string) string {
	return s.verb(store, ClassWrite, verb, name)
}

// Read returns the subject of a store's read verb; an empty name is left out.
func (s Subjects) Read(store, verb, name string) string { return s.verb(store, ClassRead, verb, name) }

func (s Subjects) verb(store, class, verb, name string) string {
	if name == "" {
		return s.Of(store, class, verb)
	}
	return s.Of(store, class, verb, name)
}

// Event returns the subject on which a stream's committed events are published.
func (s Subjects) Event(store, stream string) string { return s.Of(store, ClassEvent, stream) }

// CloudEvent returns the subject on which a stream's committed events are published as CloudEvents in structured mode.
func (s Subjects) CloudEvent(store, stream string) string {
	return s.Of(store, ClassCloudEvent, stream)
}

// Source returns what the events of a store have as their CloudEvents source, unless they came with another.
func (s Subjects) Source(store string) string { return "/" + s.prefix() + "/" + store }

// LeaderEvent returns the subject on which a store's leadership changes are published.
func (s Subjects) LeaderEvent(store string) string {
	return s.Of(ClusterStore, ClassEvent, "leader", store)
}

// MemberEvent returns the subject on which a node's coming and going is published.
func (s Subjects) MemberEvent(node string) string {
	return s.Of(ClusterStore, ClassEvent, "member", node)
}

// Parse takes a request's subject apart and checks every token. The verb's name is checked by its handler, which knows what it names.
func (s Subjects) Parse(subject string) (Subject, *Error) {
	rest, ok := strings.CutPrefix(subject, s.prefix()+".")
	if !ok {
		return Subject{}, ErrBadSubject.With("subject %q does not begin with %q", subject, s.prefix()+".")
	}
	parts := strings.SplitN(rest, ".", 4)
	if len(parts) < 3 || parts[2] == "" {
		return Subject{}, ErrBadSubject.With("subject %q is too short; the grammar is %s.<store>.<class>.<verb>[.<name>]", subject, s.prefix())
	}
	p := Subject{Store: parts[0], Class: parts[1], Verb: parts[2]}
	if len(parts) == 4 {
		if parts[3] == "" {
			return Subject{}, ErrBadSubject.With("subject %q ends in a dot", subject)
		}
		p.Name = parts[3]
	}
	if p.Class == ClassWrite && p.Verb == verbSubscription && p.Name != "" { // its verbs have two tokens
		verb, name, named := strings.Cut(p.Name, ".")
		if named && name == "" {
			return Subject{}, ErrBadSubject.With("subject %q ends in a dot", subject)
		}
		if err := checkStoreToken(verb); err != nil {
			return Subject{}, ErrBadSubject.With("verb subscription.%q holds characters that no verb has", verb)
		}
		p.Verb, p.Name = verbSubscription+"."+verb, name
	}
	if err := checkStoreToken(p.Store); err != nil {
		return Subject{}, err
	}
	if p.Class != ClassWrite && p.Class != ClassRead && p.Class != ClassEvent {
		return Subject{}, ErrBadSubject.With("class %q is not one of write, read, event", p.Class)
	}
	if err := checkStoreToken(parts[2]); err != nil {
		return Subject{}, ErrBadSubject.With("verb %q holds characters that no verb has", p.Verb)
	}
	return p, nil
}

// CheckPrefix returns nil when prefix may begin all subjects: one or more tokens of A-Z a-z 0-9 _ - joined by dots.
func CheckPrefix(prefix string) *Error {
	for _, token := range strings.Split(prefix, ".") {
		if err := checkStoreToken(token); err != nil {
			return ErrBadName.With("prefix %q: every token needs 1 to %d of A-Z a-z 0-9 _ -", prefix, MaxStoreName)
		}
	}
	return nil
}
