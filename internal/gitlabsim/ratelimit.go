package gitlabsim

import (
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// RateLimit allows Requests per Period and user (or address, for anonymous requests). 0 = off.
type RateLimit struct {
	Requests int
	Period   time.Duration
}

// RateLimits are application rate limits by name (see DefaultRateLimits).
type RateLimits map[string]RateLimit

// DefaultRateLimits returns GitLab's defaults under the names of its application settings (https://docs.gitlab.com/api/settings/).
func DefaultRateLimits() RateLimits {
	return RateLimits{
		"groups_api_limit":                   {200, time.Minute},
		"group_api_limit":                    {400, time.Minute},
		"group_projects_api_limit":           {600, time.Minute},
		"group_invited_groups_api_limit":     {60, time.Minute},
		"project_members_api_limit":          {200, time.Minute}, // members/all of groups and of projects together
		"projects_api_limit":                 {2000, 10 * time.Minute},
		"projects_api_limit_unauthenticated": {400, 10 * time.Minute},
		"project_api_limit":                  {400, time.Minute},
		"members_delete_limit":               {60, time.Minute},
		"users_get_by_id_limit":              {300, 10 * time.Minute},
	}
}

// limitOf names the limit of an endpoint kind for a user, who is nil for anonymous requests.
func limitOf(kind string, user *User) string {
	switch kind {
	case "GET /groups":
		return "groups_api_limit"
	case "GET /groups/:id":
		return "group_api_limit"
	case "GET /groups/:id/projects":
		return "group_projects_api_limit"
	case "GET /groups/:id/invited_groups", "GET /projects/:id/invited_groups":
		return "group_invited_groups_api_limit"
	case "GET /groups/:id/members/all", "GET /projects/:id/members/all":
		return "project_members_api_limit"
	case "GET /projects":
		if user == nil {
			return "projects_api_limit_unauthenticated"
		}
		return "projects_api_limit"
	case "GET /projects/:id":
		return "project_api_limit"
	case "GET /users/:user_id":
		// The limit is for who may not see everything: administrators are not counted (lib/api/users.rb).
		if user != nil && !user.Admin {
			return "users_get_by_id_limit"
		}
	case "DELETE /groups/:id/members/:user_id", "DELETE /projects/:id/members/:user_id":
		return "members_delete_limit"
	}
	return ""
}

type limitKey struct {
	name string
	user int64
	ip   string
	path string
}

type window struct {
	start time.Time
	count int
}

type limitState struct {
	*instance
	mu      sync.Mutex
	limits  RateLimits
	windows map[limitKey]window
}

// SetRateLimits replaces the application rate limits; nil turns them off. All counts start anew.
func (s *limitState) SetRateLimits(l RateLimits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = maps.Clone(l)
	clear(s.windows)
}

// limit counts a request and refuses it if it is one too many. GitLab counts in fixed windows of the clock
// (lib/gitlab/application_rate_limiter.rb), sends no RateLimit headers and no Retry-After.
func (s *limitState) limit(kind string, user *User, r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := limitOf(kind, user)
	l := s.limits[name]
	if l.Requests <= 0 {
		return nil
	}
	key := limitKey{name: name}
	if name == "members_delete_limit" {
		key.path = sourceOf(r)
	} else if user != nil {
		key.user = user.ID
	} else {
		key.ip, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	start := s.now().Truncate(l.Period)
	w := s.windows[key]
	if !w.start.Equal(start) {
		w = window{start: start}
	}
	w.count++
	s.windows[key] = w
	if w.count > l.Requests {
		return message(http.StatusTooManyRequests, map[string]any{"error": "This endpoint has been requested too many times. Try again later."})
	}
	return nil
}

// sourceOf is the group or project in a path, for limits that count per source.
func sourceOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.URL.EscapedPath(), "/members/")
	return path
}
