package api

import (
	"strings"
	"unicode/utf8"
)

// Limits of names and requests. They hold for every store; per-store limits can only be lower.
const (
	MaxStoreName          = 64         // bytes
	MaxStreamName         = 512        // bytes
	MaxEventID            = 256        // bytes
	MaxEventType          = 256        // bytes
	MaxTags               = 64         // tags an event
	MaxTag                = 256        // bytes
	MaxEventData          = 1 << 20    // bytes of data and metadata of one event
	MaxAppendEvents       = 10_000     // events in one append
	MaxAppendRequest      = 4 << 20    // bytes of one append request as it arrives
	MaxPayload            = 8 << 20    // bytes; what a node's NATS server accepts, above the limits so that they can answer
	MaxReadLimit          = 10_000     // events asked for in one read
	MaxPageBytes          = 1 << 20    // bytes of event data after which a page ends early (at least one event is given)
	MaxWait               = 60_000     // milliseconds a read may wait for more
	MaxQueryItems         = 32         // items of one query
	MaxItemTerms          = 64         // types of one item; as many type prefixes and stream prefixes; tags: MaxTags
	MaxQueryTerms         = 512        // types, tags and prefixes of one query, and of all conditions of an append together
	MaxConditions         = 128        // of one append
	MaxSnapshots          = 1000       // kept of one stream; the oldest goes
	MaxFetch              = 1000       // events in one fetch of a subscription, and positions in one ack
	MaxSubscriptionConfig = 6 << 10    // bytes of a subscription's config as JSON; a list of all subscriptions fits into one reply
	MaxParked             = 100_000    // events that one subscription has given up
	MaxSubscriptions      = 1000       // of one store
	MaxInFlight           = 10_000     // events of a subscription that are delivered and not acknowledged
	MaxAckWait            = 86_400_000 // milliseconds: a day
	MaxNackDelay          = 3_600_000  // milliseconds: an hour
	MaxReason             = 256        // bytes of why an event was given up, and of a subscription's description
	MaxDescription        = 256        // bytes of a store's description
	MaxAppendRate         = 1_000_000  // appends a second that a store's own limit may say
)

// Names of stores that belong to the cluster itself.
const (
	ConfigStore  = "config"
	ClusterStore = "cluster"
)

// CheckStoreName returns nil when name may name a store of a user: 1 to 64 of A-Z a-z 0-9 _ -, and not reserved.
func CheckStoreName(name string) *Error {
	if err := checkStoreToken(name); err != nil {
		return err
	}
	if name == ConfigStore || name == ClusterStore {
		return ErrReservedName.With("%q is reserved for the cluster itself; choose another store name", name)
	}
	return nil
}

func checkStoreToken(name string) *Error {
	if name == "" || len(name) > MaxStoreName {
		return ErrBadName.With("store name has %d bytes; it needs 1 to %d of A-Z a-z 0-9 _ -", len(name), MaxStoreName)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ErrBadName.With("store name %q holds %q; allowed are A-Z a-z 0-9 _ -", name, c)
		}
	}
	return nil
}

// CheckStreamName returns nil when name may name a stream: 1 to 512 bytes of UTF-8, tokens separated by single dots, none of them empty, with
// no wildcard (* >), space or control character.
func CheckStreamName(name string) *Error {
	if name == "" {
		return ErrBadName.With("the stream name is missing; put it behind the verb, as in es.orders.write.append.order-42")
	}
	if len(name) > MaxStreamName {
		return ErrBadName.With("stream name has %d bytes; at most %d are allowed", len(name), MaxStreamName)
	}
	if err := checkText("stream name", name); err != nil {
		return err
	}
	for _, token := range strings.Split(name, ".") {
		switch {
		case token == "":
			return ErrBadName.With("stream name %q has an empty token; dots separate tokens and may not begin, end or follow one another", name)
		case strings.ContainsAny(token, "*>"):
			return ErrBadName.With("stream name %q holds a wildcard (* or >); a write or read names exactly one stream", name)
		case strings.Contains(token, " "):
			return ErrBadName.With("stream name %q holds a space; use - or _", name)
		}
	}
	return nil
}

// CheckSubscriptionName returns nil when name may name a subscription: the grammar of store names.
func CheckSubscriptionName(name string) *Error {
	if name == "" {
		return ErrBadName.With("the subscription's name is missing; put it behind the verb, as in es.orders.write.subscription.fetch.mail")
	}
	if err := checkStoreToken(name); err != nil {
		return ErrBadName.With("subscription name %q: needs 1 to %d of A-Z a-z 0-9 _ -", name, MaxStoreName)
	}
	return nil
}

// CheckEventID returns nil when id may identify an event: 1 to 256 bytes of UTF-8 without control characters.
func CheckEventID(id string) *Error { return checkField("event id", id, MaxEventID) }

// CheckEventType returns nil when typ may be an event's type: 1 to 256 bytes of UTF-8 without control characters.
func CheckEventType(typ string) *Error { return checkField("event type", typ, MaxEventType) }

// CheckTag returns nil when tag may be a tag: 1 to 256 bytes of UTF-8 without control characters or commas, which separate tags in headers.
func CheckTag(tag string) *Error {
	if strings.Contains(tag, ",") {
		return ErrBadName.With("tag %q holds a comma; commas separate tags in headers", tag)
	}
	return checkField("tag", tag, MaxTag)
}

// CheckNodeName returns nil when name may name a node: the grammar of store names, without reserved names.
func CheckNodeName(name string) *Error {
	if err := checkStoreToken(name); err != nil {
		return ErrBadName.With("node name %q: needs 1 to %d of A-Z a-z 0-9 _ -", name, MaxStoreName)
	}
	return nil
}

func checkField(what, s string, limit int) *Error {
	if s == "" || len(s) > limit {
		return ErrBadName.With("%s has %d bytes; it needs 1 to %d", what, len(s), limit)
	}
	return checkText(what, s)
}

func checkText(what, s string) *Error {
	if !utf8.ValidString(s) {
		return ErrBadName.With("%s %q is not valid UTF-8", what, s)
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ErrBadName.With("%s %q holds the control character %U", what, s, r)
		}
	}
	return nil
}
