package gitlabsim

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// GitLab's access levels.
const (
	NoAccess        = 0
	MinimalAccess   = 5
	Guest           = 10
	Planner         = 15
	Reporter        = 20
	SecurityManager = 25
	Developer       = 30
	Maintainer      = 40
	Owner           = 50
)

// User states. A user who is not StateActive can't log in and gets no token.
const (
	StateActive      = "active"
	StateBlocked     = "blocked"
	StateLDAPBlocked = "ldap_blocked"
	StatePending     = "blocked_pending_approval"
	StateBanned      = "banned"
	StateDeactivated = "deactivated"
)

// Visibility levels of groups and projects.
const (
	Private  = "private"
	Internal = "internal"
	Public   = "public"
)

// SourceKind tells groups and projects apart where either may be named by id.
type SourceKind string

// The two kinds of things that have members.
const (
	KindGroup   SourceKind = "group"
	KindProject SourceKind = "project"
)

// User is a GitLab user of any type.
type User struct {
	ID          int64
	Username    string
	Name        string
	Email       string
	Password    string
	State       string // StateActive, StateBlocked, …
	Type        string // "HUMAN", "PROJECT_BOT", "SERVICE_ACCOUNT", "GHOST", …
	Admin       bool
	External    bool
	CreatedAt   time.Time
	NamespaceID int64 // the personal namespace; ids of namespaces and groups come from one sequence
}

// Group is a group or subgroup.
type Group struct {
	ID, ParentID        int64 // ParentID 0 = top level
	Path                string
	Name                string
	Visibility          string
	CreatedAt           time.Time
	SelfArchived        bool
	MarkedForDeletionOn string // YYYY-MM-DD or ""
	ShareWithGroupLock  bool   // projects of this group can't be shared with groups; GitLab copies it to all descendants
	Members             []Member
	Links               []GroupLink // groups invited into this group
}

// Project is a project in a group or in a user's personal namespace.
type Project struct {
	ID                  int64
	NamespaceID         int64 // group id, or the user's NamespaceID
	OwnerID             int64 // user id of a personal project, else 0
	Path                string
	Name                string
	Visibility          string
	DefaultBranch       string
	CreatedAt           time.Time
	SelfArchived        bool
	MarkedForDeletionOn string
	Members             []Member
	Links               []GroupLink // groups invited into this project
	ProtectedBranches   []string
	Variables           []Variable
	Environments        []Environment
	Clusters            []Cluster
	Agents              []Agent
	Files               map[string]map[string]string // branch -> path -> content
}

// Member is one direct membership row.
type Member struct {
	ID           int64
	UserID       int64 // 0 = pending invitation by e-mail
	Level        int
	ExpiresAt    string // YYYY-MM-DD or ""
	CreatedAt    time.Time
	CreatedByID  int64
	MemberRoleID int64
}

// GroupLink says that a group was invited.
type GroupLink struct {
	GroupID   int64 // the invited group
	Level     int   // the most that members of the invited group get
	ExpiresAt string
}

// Variable is a project CI/CD variable.
type Variable struct {
	ID                                                      int64 // given by the World
	Key, Value, VariableType, EnvironmentScope, Description string
	Protected, Masked, Hidden, Raw                          bool
}

// Cluster is a certificate-based integration of a Kubernetes cluster with one project (deprecated since GitLab 14.5).
type Cluster struct {
	ID                                     int64
	Name, EnvironmentScope, Domain         string
	Enabled, Managed, PerEnvironment       bool
	APIURL, CACert, Namespace, Token, Auth string
	UserID                                 int64
	CreatedAt                              time.Time
}

// Agent is a GitLab agent for Kubernetes. Its configuration is .gitlab/agents/NAME/config.yaml on the default branch of
// the project.
type Agent struct {
	ID        int64
	Name      string
	UserID    int64
	CreatedAt time.Time
}

// Environment is a deployment environment of a project.
type Environment struct {
	ID                      int64
	Name, Slug, State, Tier string
	CreatedAt               time.Time
}

// EffectiveMember is one row of GitLab's members/all.
type EffectiveMember struct {
	Member
	Kind     SourceKind // where the row (not necessarily the level) comes from
	SourceID int64
}

// Event is one system hook payload.
type Event struct {
	Name    string
	Payload map[string]any
}

// LevelName is GitLab's name of an access level, as it stands in hooks and messages.
func LevelName(level int) string {
	switch level {
	case NoAccess:
		return "No access"
	case MinimalAccess:
		return "Minimal Access"
	case Guest:
		return "Guest"
	case Planner:
		return "Planner"
	case Reporter:
		return "Reporter"
	case SecurityManager:
		return "Security Manager"
	case Developer:
		return "Developer"
	case Maintainer:
		return "Maintainer"
	case Owner:
		return "Owner"
	}
	return fmt.Sprintf("level %d", level)
}

// validLevel is the list of the members API; Minimal access (5) is for groups only.
func validLevel(level int) bool {
	switch level {
	case Guest, Planner, Reporter, SecurityManager, Developer, Maintainer, Owner:
		return true
	}
	return false
}

func validState(s string) bool {
	switch s {
	case StateActive, StateBlocked, StateLDAPBlocked, StatePending, StateBanned, StateDeactivated:
		return true
	}
	return false
}

// Member returns the direct row of a user in a group, or nil.
func (g *Group) Member(userID int64) *Member { return memberOf(g.Members, userID) }

// Member returns the direct row of a user in a project, or nil.
func (p *Project) Member(userID int64) *Member { return memberOf(p.Members, userID) }

func memberOf(ms []Member, userID int64) *Member {
	for i := range ms {
		if ms[i].UserID == userID && userID != 0 {
			return &ms[i]
		}
	}
	return nil
}

func checkPath(attr, path string) error {
	if !pathPattern.MatchString(path) || strings.HasSuffix(path, ".") || strings.HasSuffix(path, ".git") || strings.HasSuffix(path, ".atom") {
		return invalid(attr, "can contain only letters, digits, '_', '-' and '.'. Cannot start with '-', end in '.', '.git' or end in '.atom'")
	}
	return nil
}

// pathPattern is GitLab's rule for a path segment (lib/gitlab/path_regex.rb, without the reserved words).
var pathPattern = regexp.MustCompile(`^[a-zA-Z0-9_.][a-zA-Z0-9_.\-]{0,254}$`)

func checkVisibility(v string) error {
	if v != Private && v != Internal && v != Public {
		return &Error{Status: http.StatusBadRequest, Body: map[string]any{"error": "visibility does not have a valid value"}}
	}
	return nil
}
