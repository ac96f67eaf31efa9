// Package webapi is the JSON of /api/v1: what a signed-in person is told about themself. The page, the kubectl plug-in and the
// handlers share it. It imports nothing but the standard library, and has no logic.
//
// Fields are added in later versions, and never renamed or given another meaning; readers ignore what they don't know.
package webapi

import "time"

// Prefix is where the routes are, below the address of listeners.web.
const Prefix = "/api/v1"

// The routes. Each answers about who asks, by the ID token in the header Authorization.
const (
	PathWhoAmI       = Prefix + "/whoami"        // Identity
	PathMyNamespaces = Prefix + "/my-namespaces" // MyNamespaces; with watch=true one in a line at each change
	PathCan          = Prefix + "/can"           // Can
	PathMyChanges    = Prefix + "/my-changes"    // []Change
	PathCI           = Prefix + "/ci"            // CI
	PathKubeconfig   = Prefix + "/kubeconfig"    // a file; needs no token
)

// Identity is who asks.
type Identity struct {
	ID       int64      `json:"id"` // in GitLab
	Username string     `json:"username"`
	Name     string     `json:"name,omitempty"`
	Until    *time.Time `json:"until,omitempty"` // the end of the token
	Admin    bool       `json:"admin,omitempty"` // may see the pages for administrators; only the page says it
}

// MyNamespaces are the namespaces of one person, by name.
type MyNamespaces struct {
	User       Identity    `json:"user"`
	Namespaces []Namespace `json:"namespaces"` // never null
	// Total is how many there are, before Offset and Limit of a Filter.
	Total int       `json:"total"`
	AsOf  time.Time `json:"asOf"` // when GitLab was read
}

// Namespace is one in which somebody has a right, or by GitLab should have one.
type Namespace struct {
	Name string `json:"name"`
	// Source ("project/42"), Path and URL are those of the group, project or user in GitLab; "" if the person is no member there
	// and has the right from the cluster's configuration alone.
	Source string `json:"source,omitempty"`
	Path   string `json:"path,omitempty"`
	URL    string `json:"url,omitempty"`
	// Roles are the ClusterRoles that GitLab gives, the strongest first. Lacks are those of them that are not in the cluster.
	Roles  []string `json:"roles"`
	Lacks  []string `json:"lacks,omitempty"`
	Level  string   `json:"level,omitempty"` // in GitLab, e.g. "Developer"
	Reason string   `json:"reason"`          // how they come to it, e.g. "Developer in haw/world, inherited from haw, until 2026-12-31"
	// Until is when the membership ends by which they have the level; nil: it has no end.
	Until *time.Time `json:"until,omitempty"`
	// State is "" if at least one of the roles is in the cluster; else a code that says why not: plan, held, unwritten, failed, terminating,
	// foreign, noRole, notBindable, unread or unknown. Why says it in words.
	State string `json:"state,omitempty"`
	Why   string `json:"why,omitempty"`
	CI    *CI    `json:"ci,omitempty"` // of the project that the namespace belongs to, for those who may know it
}

// CI is what the deploy jobs of a project get.
type CI struct {
	Project     int64  `json:"project"`
	Path        string `json:"path"`
	Namespace   string `json:"namespace,omitempty"` // that its jobs deploy into
	Delivery    string `json:"delivery"`            // variables, id-token, agent, certificate or none
	Environment string `json:"environment"`         // the name that a deploy job needs in environment:
	// Good is until when the credentials are good that the project was given last; nil: it was given none, or they have no end
	// of their own. They are replaced before.
	Good *time.Time `json:"good,omitempty"`
	// Outcome is that of the last delivery: delivered, waiting, failed, frozen, foreign, other-cluster, none or unknown. Why says it
	// in words.
	Outcome string     `json:"outcome"`
	Why     string     `json:"why,omitempty"`
	At      *time.Time `json:"at,omitempty"` // of the last delivery
}

// Can answers whether somebody may do something.
type Can struct {
	Allowed string   `json:"allowed"` // yes, no or unknown, by what is known here
	Reason  string   `json:"reason"`  // a sentence
	Trail   []string `json:"trail,omitempty"`
	Ask     []string `json:"ask,omitempty"` // user names of those who could help
}

// Change is a right that somebody got or lost.
type Change struct {
	At        time.Time `json:"at"`
	Namespace string    `json:"namespace"`
	Role      string    `json:"role"`
	What      string    `json:"what"`            // gained or lost
	Cause     string    `json:"cause,omitempty"` // what made us look
	Why       string    `json:"why,omitempty"`   // which row of GitLab
}

// Error is any answer that is not 2xx.
type Error struct {
	Error string `json:"error"` // what failed and what to do
	Code  string `json:"code"`  // stable
}
