package webadmin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
)

// adminsEvery is how often GitLab is asked for its administrators, at most.
const adminsEvery = time.Minute

// AdminClient is GitLab's word on who is an administrator.
type AdminClient interface {
	IsAdmin(ctx context.Context, id int64) (bool, error)
	Admins(ctx context.Context) (map[int64]bool, error)
}

// administrators knows who may see the pages for administrators: GitLab's, by its word at each use, or the members of one group.
type administrators struct {
	group  int64 // 0: GitLab's administrators
	view   func() (authz.View, bool)
	gitlab AdminClient
	now    func() time.Time

	mu     sync.Mutex
	likely map[int64]bool // whom GitLab named as administrators last; nil: anybody could be one
	asked  time.Time      // when
}

// Is implements web.Admin. Whom GitLab did not name within the last minute is none: else each sign-in of anybody would use up what
// GitLab allows us to ask about accounts.
func (a *administrators) Is(ctx context.Context, user int64) (bool, error) {
	if a.group != 0 {
		return a.inGroup(user)
	}
	a.mu.Lock()
	likely, fresh := a.likely, !a.asked.IsZero() && a.now().Sub(a.asked) < adminsEvery
	a.mu.Unlock()
	if !fresh {
		at := a.now()
		named, err := a.gitlab.Admins(ctx)
		if err != nil {
			return false, err
		}
		a.mu.Lock()
		a.likely, a.asked = named, at
		a.mu.Unlock()
		likely = named
	}
	if likely != nil && !likely[user] {
		return false, nil
	}
	return a.gitlab.IsAdmin(ctx, user)
}

// inGroup reports whether somebody is a member of the group, by what was read of GitLab last.
func (a *administrators) inGroup(user int64) (bool, error) {
	v, ok := a.view()
	if !ok {
		return false, people.ErrUnread
	}
	id := authz.GroupID(a.group)
	if why, missing := v.Snapshot.Missing[id]; missing {
		return false, fmt.Errorf("web.adminGroup: %s could not be read: %s", id, why)
	}
	if u := v.Snapshot.Users[user]; u.State != authz.StateActive || !u.Human {
		return false, nil
	}
	_, member := authz.NewResolver(v.Snapshot, a.now()).Members(id).Access(user)
	return member, nil
}
