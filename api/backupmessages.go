package api

// Types of replies about backups.
const (
	TypeBackup     = "io.quorate.v1.backup_response"
	TypeBackupKeys = "io.quorate.v1.backup_keys_response"
	TypeRestore    = "io.quorate.v1.restore_response"
)

// BackupRequest asks for a page of events as a backup holds them, hidden ones too.
type BackupRequest struct {
	ReadOptions
	After uint64 `json:"after,omitempty"` // exclusive position
	UpTo  uint64 `json:"up_to,omitempty"` // the last position that is asked for; 0: the last there is
}

// BackupResponse is a page of events.
type BackupResponse struct {
	Reply
	Store        string `json:"store,omitempty"`
	Incarnation  uint64 `json:"incarnation"`
	Page         []byte `json:"page,omitempty"` // see DecodeBackupEvents
	Events       int    `json:"events"`         // on the page
	Next         uint64 `json:"next"`           // after of the page that follows
	End          bool   `json:"end"`            // nothing that was asked for lay beyond the page
	LastPosition uint64 `json:"last_position"`
	Applied      uint64 `json:"applied"`
}

// BackupKeysRequest asks for what the store keeps beside its events, as of one moment.
type BackupKeysRequest struct {
	ReadOptions
	Set  string `json:"set,omitempty"`  // of the first reply; left out: a new moment
	Page int    `json:"page,omitempty"` // from 0
}

// BackupKeysResponse is a page of keys. The node keeps the set for a minute after the last page that was asked for.
type BackupKeysResponse struct {
	Reply
	Store       string `json:"store,omitempty"`
	Incarnation uint64 `json:"incarnation"`
	Set         string `json:"set,omitempty"` // left out: there are no more pages
	Pages       int    `json:"pages"`
	Page        []byte `json:"page,omitempty"` // see DecodeBackupKeys
	Keys        uint64 `json:"keys"`           // of all pages
	Position    uint64 `json:"position"`       // the last event's at that moment: events up to here and these keys are one state
	Applied     uint64 `json:"applied"`
}

// Steps of a restore.
const (
	RestoreBegin  = "begin"  // the store must be empty
	RestoreEvents = "events" // a page, which must follow what is there
	RestoreKeys   = "keys"   // a page, which must follow what is there
	RestoreEnd    = "end"    // counts and digests must be right; the store takes appends again
)

// RestoreRequest carries out a step of a restore. Each may be sent again: what is there already is not written twice.
type RestoreRequest struct {
	Restore      string `json:"restore"` // 1 to 64 of A-Z a-z 0-9 _ -; the same in all steps; another restore has another one
	Step         string `json:"step"`
	Page         []byte `json:"page,omitempty"`         // of events and keys
	Events       uint64 `json:"events,omitempty"`       // end: how many there are, which is the last position too
	Keys         uint64 `json:"keys,omitempty"`         // end: how many there are
	EventsDigest Digest `json:"events_digest,omitzero"` // end
	KeysDigest   Digest `json:"keys_digest,omitzero"`   // end
}

// RestoreResponse says how far the restore is. A page that does not follow what is there changes nothing, and this says where to go on.
type RestoreResponse struct {
	Reply
	Store    string `json:"store,omitempty"`
	Position uint64 `json:"position"` // of the last event that is there
	Keys     uint64 `json:"keys"`     // that are there
	Done     bool   `json:"done"`     // end was carried out
}
