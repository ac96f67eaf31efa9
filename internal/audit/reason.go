package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// reasons says why somebody gained or lost something, by GitLab before and after. What it says has no name of a person: paths of
// what belongs to one are written as ids, so that pseudonymised entries stay so.
type reasons struct {
	now, before *authz.Snapshot // before may be nil
	at          time.Time
}

// trail says how somebody comes to their level in a source; "" if they are no member.
func (r reasons) trail(s *authz.Snapshot, user int64, id authz.SourceID, at time.Time) (authz.Trail, bool) {
	if s == nil {
		return authz.Trail{}, false
	}
	t, ok := authz.View{Snapshot: s}.Trail(user, id, at)
	t.Text = impersonal(s, t.Text, t.Source, t.Why.Row, t.Why.Target)
	return t, ok
}

// impersonal writes the paths of what belongs to a person as ids.
func impersonal(s *authz.Snapshot, text string, ids ...authz.SourceID) string {
	for _, id := range ids {
		if path, ok := s.Path(id); ok && path != "" && owner(s, id) != 0 {
			text = strings.ReplaceAll(text, rbacsync.Printable(path), id.String())
		}
	}
	return text
}

// plain is why a change was planned, in its own words.
func (r reasons) plain(p *place, c rbacsync.Change) string {
	why := c.Why
	if c.ApprovedBy != "" { // that is told by itself
		why = strings.ReplaceAll(why, ", approved by "+c.ApprovedBy, "")
	}
	why = impersonal(r.now, why, p.source, c.Source)
	if r.before != nil {
		why = impersonal(r.before, why, p.source, c.Source)
	}
	return why
}

func (r reasons) gained(p *place, h holder, c rbacsync.Change) string {
	if h.user != 0 {
		if t, ok := r.trail(r.now, h.user, p.source, r.at); ok {
			return t.Text
		}
	}
	return r.plain(p, c)
}

func (r reasons) lost(p *place, h holder, c rbacsync.Change) string {
	if h.user == 0 {
		return r.plain(p, c)
	}
	var parts []string
	// At the zero time nothing is over: what ended by its date is in it as well.
	was, had := r.trail(r.before, h.user, p.source, time.Time{})
	if had {
		parts = append(parts, "was "+was.Text)
	}
	is, has := r.trail(r.now, h.user, p.source, r.at)
	u, known := r.now.Users[h.user]
	switch {
	case !known:
		parts = append(parts, "the account is gone from GitLab")
	case u.State != authz.StateActive:
		parts = append(parts, fmt.Sprintf("the account is %s", rbacsync.Printable(string(u.State))))
	case !r.now.Contains(p.source):
		parts = append(parts, p.source.String()+" is gone from GitLab")
	case has && had && is.Text == was.Text: // the configuration, or somebody else
		parts = append(parts[:0], is.Text, r.plain(p, c))
	case has:
		parts = append(parts, "now "+is.Text)
	case had && was.Until.Over(r.at):
		parts = append(parts, "that is over")
	case had:
		parts = append(parts, "that is gone")
	default:
		parts = append(parts, r.plain(p, c))
	}
	return strings.Join(parts, "; ")
}
