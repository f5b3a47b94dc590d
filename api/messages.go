package api

import (
	"time"
)

// Consistency of a read.
const (
	Linearizable = "linearizable" // sees every write acknowledged before the read began; the default; works on any node
	Local        = "local"        // this node's state as it is, no network
)

// AppendRequest appends events atomically: all of them or none. The subject names one stream, or none, and then every event names its own.
type AppendRequest struct {
	Events          []NewEvent  `json:"events"`
	ExpectedVersion *int64      `json:"expected_version,omitempty"` // of the one stream: n exact, -1 must not exist, -2 any (default), -4 must exist
	Conditions      []Condition `json:"conditions,omitempty"`       // at most MaxConditions; all must hold in the state before the append
}

// AppendResponse is the result of an append.
type AppendResponse struct {
	Reply
	Store         string `json:"store,omitempty"`
	Stream        string `json:"stream,omitempty"`
	FirstVersion  uint64 `json:"first_version"`
	Version       uint64 `json:"version"` // of the last event
	FirstPosition uint64 `json:"first_position"`
	Position      uint64 `json:"position"`  // of the last event
	Duplicate     bool   `json:"duplicate"` // the same event ids were appended before; this is that append's result
}

// AppendSeveralResponse is the result of an append over several streams.
type AppendSeveralResponse struct {
	Reply
	Store         string         `json:"store,omitempty"`
	FirstPosition uint64         `json:"first_position"`
	Position      uint64         `json:"position"` // of the last event
	Duplicate     bool           `json:"duplicate"`
	Results       []StreamResult `json:"results"` // a stream each, in the order in which the request first names them
}

// StreamResult is where an append over several streams left one of them.
type StreamResult struct {
	Stream        string `json:"stream"`
	FirstVersion  uint64 `json:"first_version"`
	Version       uint64 `json:"version"`        // of the append's last event in this stream
	FirstPosition uint64 `json:"first_position"` // of the append's first event in this stream
	Position      uint64 `json:"position"`       // of the last one
}

// Reply is the part every JSON reply has in common.
type Reply struct {
	Type  string `json:"type"`
	Error *Error `json:"error,omitempty"`
}

// Failure returns the reply's error; nil when it has none.
func (r *Reply) Failure() *Error { return r.Error }

// Types of replies and published messages.
const (
	TypeAppend         = "io.quorate.v1.append_response"
	TypeRead           = "io.quorate.v1.read_response"
	TypeSnapshotPut    = "io.quorate.v1.snapshot_put_response"
	TypeSnapshotDelete = "io.quorate.v1.snapshot_delete_response"
	TypeSnapshot       = "io.quorate.v1.snapshot_response"
	TypeSnapshots      = "io.quorate.v1.snapshots_response"
	TypeStreams        = "io.quorate.v1.streams_response"
	TypeStoreInfo      = "io.quorate.v1.store_info_response"
	TypeConfigPut      = "io.quorate.v1.config_put_response"
	TypeConfigDelete   = "io.quorate.v1.config_delete_response"
	TypeConfigGet      = "io.quorate.v1.config_get_response"
	TypeConfigList     = "io.quorate.v1.config_list_response"
	TypeConfigEvent    = "io.quorate.v1.config_event"
	TypeClusterInfo    = "io.quorate.v1.cluster_info_response"
	TypeHealth         = "io.quorate.v1.health_response"
	TypeLeaders        = "io.quorate.v1.leaders_response"
	TypeTransfer       = "io.quorate.v1.transfer_response"
	TypeLeaderEvent    = "io.quorate.v1.leader_event"
	TypeMemberEvent    = "io.quorate.v1.member_event"
	TypeError          = "io.quorate.v1.error_response"
)

// ReadOptions are what every read takes.
type ReadOptions struct {
	Consistency string `json:"consistency,omitempty"`  // Linearizable (default) or Local
	MinPosition uint64 `json:"min_position,omitempty"` // the serving node must have applied this position first
}

// ReadStreamRequest reads one stream.
type ReadStreamRequest struct {
	ReadOptions
	From     *uint64 `json:"from,omitempty"`     // first version given; default 0, or the last one when backward
	Limit    int     `json:"limit,omitempty"`    // events, 1 to 10,000; default 100
	Backward bool    `json:"backward,omitempty"` // newest first
	WaitMS   int     `json:"wait_ms,omitempty"`  // 0 to 60,000: wait so long for at least one event
	// Snapshot asks for the newest snapshot too. When From is left out, the events are those behind it: an aggregate in one request.
	Snapshot   bool    `json:"snapshot,omitempty"`
	SnapshotAt *uint64 `json:"snapshot_at,omitempty"` // with Snapshot: the newest that is not above this version
}

// ReadAllRequest reads the store in position order, or what a query selects of it.
type ReadAllRequest struct {
	ReadOptions
	After    *uint64 `json:"after,omitempty"` // exclusive; default 0, or the end when backward
	Limit    int     `json:"limit,omitempty"`
	Backward bool    `json:"backward,omitempty"`
	WaitMS   int     `json:"wait_ms,omitempty"`
	Query    *Query  `json:"query,omitempty"` // left out: everything
}

// ReadResponse is a page of events.
type ReadResponse struct {
	Reply
	Store        string    `json:"store,omitempty"`
	Incarnation  uint64    `json:"incarnation,omitempty"` // of the store: another one's positions and versions say nothing about this one's
	Stream       string    `json:"stream,omitempty"`
	Snapshot     *Snapshot `json:"snapshot,omitempty"` // when it was asked for and there is one
	Events       []Event   `json:"events"`
	Next         uint64    `json:"next"`                    // from (stream) or after (all) of the page that follows
	End          bool      `json:"end"`                     // nothing lay beyond this page when it was read
	Scanned      *uint64   `json:"scanned,omitempty"`       // of a query: everything up to this position was looked at; backward: down to it
	LastVersion  *int64    `json:"last_version,omitempty"`  // of the stream, when one was read
	LastPosition uint64    `json:"last_position,omitempty"` // of the store
	Applied      uint64    `json:"applied"`                 // Raft index the serving node had applied
}

// StreamsRequest lists streams in name order.
type StreamsRequest struct {
	ReadOptions
	After  string `json:"after,omitempty"`  // exclusive name to go on from
	Prefix string `json:"prefix,omitempty"` // only names that begin so
	Limit  int    `json:"limit,omitempty"`  // 1 to 10,000; default 100
}

// StreamInfo describes one stream.
type StreamInfo struct {
	Name    string `json:"name"`
	Events  uint64 `json:"events"`
	Version int64  `json:"version"` // of the last event
}

// StreamsResponse is a page of streams.
type StreamsResponse struct {
	Reply
	Store   string       `json:"store,omitempty"`
	Streams []StreamInfo `json:"streams"`
	Next    string       `json:"next,omitempty"` // after of the page that follows
	End     bool         `json:"end"`
	Applied uint64       `json:"applied"`
}

// InfoRequest asks what a store is.
type InfoRequest struct{ ReadOptions }

// StoreInfoResponse describes a store as the serving node sees it.
type StoreInfoResponse struct {
	Reply
	Store        string   `json:"store,omitempty"`
	Incarnation  uint64   `json:"incarnation"`
	Leader       string   `json:"leader"` // node name; empty while there is none
	Term         uint64   `json:"term"`
	Node         string   `json:"node"` // the node that answered
	Members      []string `json:"members"`
	Streams      uint64   `json:"streams"`
	Events       uint64   `json:"events"`
	LastPosition uint64   `json:"last_position"`
	DiskBytes    int64    `json:"disk_bytes"` // that this node's replica takes on disk, without the shared log
	Bytes        int64    `json:"bytes"`      // of disk_bytes what is in use, and what is to be written yet; limits.max_bytes is about this
	Limits       Limits   `json:"limits,omitzero"`
	Restoring    bool     `json:"restoring,omitempty"` // a backup is being restored; the store takes nothing else and answers no other reads
	Applied      uint64   `json:"applied"`
}

// StoreOptions are a store's options. A put replaces all of them.
type StoreOptions struct {
	Description string `json:"description,omitempty"` // free text, at most MaxDescription bytes
	Limits      Limits `json:"limits,omitzero"`
}

// ConfigPutRequest creates a store or changes its options.
type ConfigPutRequest struct {
	Options         *StoreOptions `json:"options,omitempty"`
	ExpectedVersion *int64        `json:"expected_version,omitempty"` // of the record; -1: the store must not exist
}

// ConfigDeleteRequest drops a store.
type ConfigDeleteRequest struct {
	ExpectedVersion *int64 `json:"expected_version,omitempty"`
}

// ConfigPutResponse is the result of a put or delete.
type ConfigPutResponse struct {
	Reply
	Store       string `json:"store,omitempty"`
	Version     uint64 `json:"version"`     // of the record
	Incarnation uint64 `json:"incarnation"` // counts how often the name was created
	Created     bool   `json:"created,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
	Leader      string `json:"leader,omitempty"` // who serves the store, after a create
}

// StoreRecord is what the config store keeps of a store.
type StoreRecord struct {
	Store       string       `json:"store"`
	ID          uint64       `json:"id"` // position of the record's creation; unique for ever
	Version     uint64       `json:"version"`
	Incarnation uint64       `json:"incarnation"`
	Options     StoreOptions `json:"options"`
	Members     []string     `json:"members"` // server ids: name~disk
	Created     time.Time    `json:"created"`
	Updated     time.Time    `json:"updated"`
}

// ConfigGetResponse is one record.
type ConfigGetResponse struct {
	Reply
	*StoreRecord
	Applied uint64 `json:"applied"`
}

// ConfigListResponse is all records, in name order.
type ConfigListResponse struct {
	Reply
	Stores  []StoreRecord `json:"stores"`
	Applied uint64        `json:"applied"`
}

// ConfigEvent is published on es.config.event.<store> after a change of a record.
type ConfigEvent struct {
	Type        string    `json:"type"`
	ID          string    `json:"id"`
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"` // created, updated, deleted
	Store       string    `json:"store"`
	Version     uint64    `json:"version"`
	Incarnation uint64    `json:"incarnation"`
}

// NodeInfo is a member of the cluster as one node sees it.
type NodeInfo struct {
	Name     string    `json:"name"`
	ServerID string    `json:"server_id"` // name~disk: a wiped disk is another member
	Raft     string    `json:"raft"`      // address of its Raft listener
	Version  string    `json:"version"`
	Up       bool      `json:"up"`
	Seen     time.Time `json:"seen"`
}

// ClusterInfoResponse says who is here.
type ClusterInfoResponse struct {
	Reply
	Cluster  string     `json:"cluster"` // id, given once at formation
	Node     string     `json:"node"`    // the node that answered
	Version  string     `json:"version"`
	Prefix   string     `json:"prefix"`
	Nodes    []NodeInfo `json:"nodes"`
	Unlisted []NodeInfo `json:"unlisted,omitempty"` // seen on the routes, but not members: new or wiped disks
	Stores   int        `json:"stores"`
}

// HealthResponse says whether the answering node is ready, and what is not.
type HealthResponse struct {
	Reply
	Node   string        `json:"node"`
	Ready  bool          `json:"ready"`
	Reason string        `json:"reason,omitempty"`
	Stores []StoreHealth `json:"stores,omitempty"` // only those with a problem
}

// StoreHealth names a store's problem on the answering node.
type StoreHealth struct {
	Store  string `json:"store"`
	Status string `json:"status"` // no_leader, damaged, not_open
	Reason string `json:"reason,omitempty"`
}

// LeadersResponse says who leads what.
type LeadersResponse struct {
	Reply
	Stores []StoreLeader `json:"stores"`
	Nodes  []NodeLeads   `json:"nodes"`
}

// StoreLeader is the leadership of one store as the answering node sees it.
type StoreLeader struct {
	Store     string    `json:"store"`
	Leader    string    `json:"leader"` // node name; empty while there is none
	Term      uint64    `json:"term"`
	Since     time.Time `json:"since"`     // when the answering node saw this leader first
	Members   []string  `json:"members"`   // node names
	Elections uint64    `json:"elections"` // leader changes the answering node saw since it started
}

// NodeLeads counts what a node leads.
type NodeLeads struct {
	Node  string `json:"node"`
	Leads int    `json:"leads"`
	Up    bool   `json:"up"`
}

// TransferRequest moves a store's leadership.
type TransferRequest struct {
	To string `json:"to,omitempty"` // node name; left out: the most up-to-date follower
}

// TransferResponse says who leads after a transfer.
type TransferResponse struct {
	Reply
	Store  string `json:"store,omitempty"`
	From   string `json:"from,omitempty"`
	Leader string `json:"leader,omitempty"`
	Term   uint64 `json:"term,omitempty"`
}

// Kinds of leader events.
const (
	LeaderElected = "elected"
	LeaderLost    = "lost"
)

// LeaderEvent is published on es.cluster.event.leader.<store> by the node concerned: elected once it serves, lost when it steps down while alive.
type LeaderEvent struct {
	Type     string    `json:"type"`
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Store    string    `json:"store"`
	Node     string    `json:"node"`
	Term     uint64    `json:"term"`
	Previous string    `json:"previous,omitempty"` // who led before, as this node knew
	Reason   string    `json:"reason"`
}

// MemberEvent is published on es.cluster.event.member.<node> when a node sees another come or go.
type MemberEvent struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // up, down
	Node string    `json:"node"`
	By   string    `json:"by"` // the node that saw it
}

// Marshal encodes v as JSON without escaping HTML characters, so that event data comes back as it was sent.
func Marshal(v any) ([]byte, error) { return marshal(v) }

// Unmarshal decodes one JSON object strictly: an empty payload equals {}, unknown fields, wrong types and trailing text are refused with a
// sentence that names them. v may hold on to slices of the payload.
func Unmarshal(payload []byte, v any) *Error { return unmarshal(payload, v) }
