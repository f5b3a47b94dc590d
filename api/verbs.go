package api

import (
	"slices"
	"strings"
)

// Verb is one request a node answers.
type Verb struct {
	Scope string // ScopeStore for every store, or ConfigStore or ClusterStore
	Class string // ClassWrite or ClassRead
	Verb  string
	Name  string // what stands behind the verb, as subjects.md writes it; empty: nothing
	Reply string // type of the reply
}

// ScopeStore stands for any store's name.
const ScopeStore = "<store>"

// Verbs is every request of this version. The server answers these and refuses all others; subjects.md describes them, which a test holds together.
var Verbs = []Verb{
	{ScopeStore, ClassWrite, "append", "<stream>", TypeAppend},
	{ScopeStore, ClassWrite, "append", "", TypeAppend},
	{ScopeStore, ClassWrite, "snapshot", "<stream>", TypeSnapshotPut},
	{ScopeStore, ClassWrite, "snapshot_delete", "<stream>", TypeSnapshotDelete},
	{ScopeStore, ClassWrite, "restore", "", TypeRestore},
	{ScopeStore, ClassRead, "backup", "", TypeBackup},
	{ScopeStore, ClassRead, "backup_keys", "", TypeBackupKeys},
	{ScopeStore, ClassWrite, "delete", "<stream>", TypeStreamState},
	{ScopeStore, ClassWrite, "truncate", "<stream>", TypeStreamState},
	{ScopeStore, ClassWrite, "metadata", "<stream>", TypeStreamState},
	{ScopeStore, ClassRead, "stream", "<stream>", TypeRead},
	{ScopeStore, ClassRead, "snapshot", "<stream>", TypeSnapshot},
	{ScopeStore, ClassRead, "snapshots", "<stream>", TypeSnapshots},
	{ScopeStore, ClassRead, "metadata", "<stream>", TypeStreamState},
	{ScopeStore, ClassRead, "all", "", TypeRead},
	{ScopeStore, ClassRead, "query", "", TypeRead},
	{ScopeStore, ClassRead, "streams", "", TypeStreams},
	{ScopeStore, ClassRead, "info", "", TypeStoreInfo},
	{ScopeStore, ClassWrite, "subscription.create", "<name>", TypeSubscriptionCreate},
	{ScopeStore, ClassWrite, "subscription.fetch", "<name>", TypeSubscriptionFetch},
	{ScopeStore, ClassWrite, "subscription.ack", "<name>", TypeSubscriptionAck},
	{ScopeStore, ClassWrite, "subscription.nack", "<name>", TypeSubscriptionAck},
	{ScopeStore, ClassWrite, "subscription.replay", "<name>", TypeSubscriptionAck},
	{ScopeStore, ClassWrite, "subscription.delete", "<name>", TypeSubscriptionDelete},
	{ScopeStore, ClassRead, "subscriptions", "", TypeSubscriptions},
	{ScopeStore, ClassRead, "subscription", "<name>", TypeSubscription},
	{ScopeStore, ClassRead, "parked", "<name>", TypeParked},
	{ConfigStore, ClassWrite, "put", "<store>", TypeConfigPut},
	{ConfigStore, ClassWrite, "delete", "<store>", TypeConfigDelete},
	{ConfigStore, ClassRead, "get", "<store>", TypeConfigGet},
	{ConfigStore, ClassRead, "list", "", TypeConfigList},
	{ClusterStore, ClassRead, "info", "", TypeClusterInfo},
	{ClusterStore, ClassRead, "leaders", "", TypeLeaders},
	{ClusterStore, ClassRead, "health", "", TypeHealth},
	{ClusterStore, ClassWrite, "transfer", "<store>", TypeTransfer},
}

// Published is every kind of subject the cluster publishes on, behind the prefix.
var Published = []string{"<store>.event.<stream>", "<store>.cloudevent.<stream>", "config.event.<store>", "cluster.event.leader.<store>", "cluster.event.member.<node>"}

// Subject returns the verb's subject behind the prefix, as subjects.md writes it.
func (v Verb) Subject() string {
	return strings.TrimSuffix(v.Scope+"."+v.Class+"."+v.Verb+"."+v.Name, ".")
}

// FindVerb returns the verb of a parsed subject.
func FindVerb(s Subject) (Verb, bool) {
	for _, v := range Verbs {
		if v.Scope == scopeOf(s.Store) && v.Class == s.Class && v.Verb == s.Verb {
			return v, true
		}
	}
	return Verb{}, false
}

// UnknownVerb says that the subject's verb is not known and lists those that are.
func UnknownVerb(s Subject) *Error {
	var known []string
	for _, v := range Verbs {
		if v.Scope == scopeOf(s.Store) && v.Class == s.Class && !slices.Contains(known, v.Verb) {
			known = append(known, v.Verb)
		}
	}
	return ErrUnknownVerb.With("%s.%s.%s is not a verb of this version; %s knows: %s", s.Store, s.Class, s.Verb, s.Class, strings.Join(known, ", "))
}

func scopeOf(store string) string {
	if store == ConfigStore || store == ClusterStore {
		return store
	}
	return ScopeStore
}
