package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
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

// Admins returns whom it is worth to ask IsAdmin about: the active administrators, in one request. It is nil where that can't be
// told: there are more than fit on a page, or this GitLab lists others too. It is a hint, and no answer.
func (r *Reader) Admins(ctx context.Context) (map[int64]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	const most = 100 // GitLab's largest page
	list, n, _, err := page[restUser](briefly(ctx, adminPatience), r.api, "users", url.Values{"admins": {"true"}, "active": {"true"}, "per_page": {strconv.Itoa(most)}})
	if err != nil {
		return nil, fmt.Errorf("asking GitLab for its administrators: %w", err)
	}
	out := make(map[int64]bool, len(list))
	for id, u := range list {
		if u.IsAdmin == nil || !*u.IsAdmin || n >= most {
			return nil, nil //nolint:nilnil // it is not known who could be one, which is no error
		}
		out[id] = true
	}
	return out, nil
}
