package raftnode

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Errors of a group. The first two are definite: the command was not and will not be applied. ErrOutcomeUnknown is not.
var (
	ErrNoLeader       = errors.New("the group has no leader")
	ErrNotLeader      = errors.New("this node does not lead the group")
	ErrOutcomeUnknown = errors.New("the command may or may not be applied")
	ErrClosed         = errors.New("the group is closed")
	ErrNotMember      = errors.New("not a member of the group")
	ErrDamaged        = errors.New("the replica is damaged")
)

// applyError sorts raft's errors into the ones above. An error before the entry entered the leader's log is definite; once it is there,
// only a commit tells.
func applyError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore), errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}
