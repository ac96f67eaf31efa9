package gitlab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// adminPatience is how long the question whether somebody is an administrator may take, with what it waits for its turn.
const adminPatience = 3 * time.Second

// IsAdmin reports whether an account is an administrator of GitLab at this moment, and active. That is shown to administrators
// alone (https://docs.gitlab.com/api/users/, "as an administrator"), so with another token it is an error. It uses nothing of what
// GitLab's limits leave to targeted readings.
func (r *Reader) IsAdmin(ctx context.Context, id int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	var u restUser
	_, err := r.api.get(briefly(ctx, adminPatience), sourcePath(authz.UserID(id)), nil, &u)
	switch {
	case errors.Is(err, errAbsent):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("asking GitLab whether user %d is an administrator: %w", id, err)
	case u.ID != id:
		return false, fmt.Errorf("asking GitLab whether user %d is an administrator: the answer is about user %d", id, u.ID)
	case u.IsAdmin == nil:
		return false, fmt.Errorf("asking GitLab whether user %d is an administrator: it does not tell, so the token in gitlab.readTokenFile is not an administrator's:"+
			" put one of an administrator there, with the scopes read_api and, where GitLab demands it, admin_mode", id)
	}
	return *u.IsAdmin && authz.UserState(u.State) == authz.StateActive, nil
}
