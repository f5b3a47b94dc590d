// Package configsvc knows which stores exist.
//
// It has no state machine of its own. A store's record is a stream in the ordinary event store named config, a change is an append with an expected version, and a
// Service keeps a projection of all records that every node can read. One state machine, one disk format, one snapshot to get right.
//
//	put orders ──► Service.Put (at config's leader) ──append──► store config, stream "orders"
//	                                                               │ committed, on every node
//	               Service.run: projection of records  ◄──feed─────┘
//	                            └─► stores.Manager.Reconcile: open, close, set aside
//
// The invariant: a store is opened only from its record, with the id, incarnation and members that stand there.
package configsvc
