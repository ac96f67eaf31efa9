package gitlab

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// Reader reads a GitLab instance with a token that only reads. Its methods may be used at the same time.
type Reader struct {
	api          *api
	includeUsers bool
	graphQL      *graphQL
	absences     absences
	links        *linkMemory
	wasAdmin     atomic.Bool // GitLab showed, since the start, that the token is an administrator's
}

// NewReader returns a Reader. It does no request.
func NewReader(o Options) (*Reader, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Reader{
		api: a, includeUsers: o.IncludeUsers, graphQL: &graphQL{api: a, off: o.RESTOnly, variables: o.CIVariables},
		absences: absences{pause: secondLook}, links: newLinkMemory(o.LinksMaxAge, a.now),
	}, nil
}

// Requests returns how many requests of each kind were sent so far, repetitions included.
func (r *Reader) Requests() map[string]int64 { return r.api.gate.requests() }

// Info is what a GitLab says about itself and our token.
type Info struct {
	Version         string // "" when it does not tell
	User            authz.User
	Admin           bool // GitLab showed that the token is an administrator's
	GraphQL         bool
	ComplexityLimit int
	Warnings        []string // what an administrator of the integrator should know
}

// defaultLimit is GitLab's documented complexity limit for signed-in users.
const defaultLimit = 250

// Probe asks GitLab who we are and what it can do. An error says that nothing can be read.
func (r *Reader) Probe(ctx context.Context) (Info, error) {
	info := Info{ComplexityLimit: defaultLimit}
	me, _, selfErr := r.api.self(briefly(ctx, sourceTimeout))
	if selfErr != nil && (global(selfErr) || unanswered(selfErr) || ctx.Err() != nil) {
		return info, selfErr
	}
	if selfErr == nil {
		info.User = me.user(true)
		info.Admin = me.IsAdmin != nil && *me.IsAdmin
		if !info.Admin {
			info.Warnings = append(info.Warnings, fmt.Sprintf("the read token belongs to %q, who is not shown to be an administrator (or the token lacks"+
				" the scope admin_mode where GitLab demands it): GitLab hides private groups, blocked people and more from it;"+
				" use an administrator's token with the scope read_api", me.Username))
		}
	}
	if !r.graphQL.off {
		if err := r.graphQL.probe(ctx, &info, selfErr); err != nil {
			return info, err
		}
	}
	if info.Version == "" {
		info.Version, _ = r.api.version(briefly(ctx, sourceTimeout)) // not knowing it is the next warning
	}
	v, err := supported(info.Version)
	if err != nil {
		return info, err
	}
	if v == (gitlabversion.Version{}) && ctx.Err() == nil {
		info.Warnings = append(info.Warnings, fmt.Sprintf("GitLab does not report its version (it says %q): it is taken for the newest", shorten(info.Version)))
	}
	return info, nil
}

// Snapshot reads everything. What could not be read completely is in Missing; when a list could not be read, or
// GitLab went away in between, MissingAll is set. The error is only for when nothing was read.
func (r *Reader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	ctx = forEverything(ctx)
	taken := r.api.now().UTC() // before reading: nothing in it is older
	info, err := r.Probe(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range info.Warnings {
		r.api.log.WarnContext(ctx, "reading GitLab with limits", "reason", w)
	}
	full := r.newFullReading()
	err = errNoGraphQL
	if info.GraphQL {
		err = full.byGraphQL(ctx, info)
	}
	if errors.Is(err, errNoGraphQL) && ctx.Err() == nil {
		if info.GraphQL {
			r.api.log.WarnContext(ctx, "reading GitLab by REST alone", "reason", err.Error())
		}
		full = r.newFullReading()
		err = full.byREST(ctx)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("reading GitLab: %w", ctx.Err())
	}
	if err != nil && (full.d.empty() || errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrToken)) {
		return nil, err
	}
	if err != nil {
		full.d.missingAll = err.Error()
	} else {
		full.rereadMissing(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading GitLab: %w", ctx.Err())
		}
	}
	s := full.d.finish(r.includeUsers)
	s.Issuer, s.Taken, s.Admin = r.api.base, taken, info.Admin
	// A token that loses its administrator's view sees no private group any more: that must not look like their end,
	// also when it happens while the lists are read.
	if info.Admin {
		r.wasAdmin.Store(true)
		if err := r.api.seesAll(ctx); errors.Is(err, errHidden) {
			s.Admin = false
		} else if err != nil && s.MissingAll == "" {
			s.MissingAll = "whether the reading token still is an administrator's was not to be learned: " + err.Error()
		}
	}
	if r.wasAdmin.Load() && !s.Admin && s.MissingAll == "" {
		s.MissingAll = authz.DemotedToken
	}
	return s, nil
}
