// Package preview makes a plan readable: by namespace, who gains and loses what and why, and what CI jobs would be given. It is
// for people (Document.Text) and for programs (the Document itself, as JSON or YAML). It computes from values alone.
package preview

import (
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// APIVersion and Kind head every Document. Fields may be added to a version; none is taken out and none changes its meaning.
const (
	APIVersion = "gl-k8s-integrator/v1"
	Kind       = "Plan"
)

// Input is what a Document is made of. It is read only.
type Input struct {
	Plan     []rbacsync.Change
	Held     []rbacsync.Item
	Findings []authz.Finding
	Observed *rbacsync.Observed // what the plan was made on
	Snapshot *authz.Snapshot
	Policy   authz.Policy
	Names    map[authz.SourceID]string
	// Before is the Snapshot that was carried out last, nil: not known. Was are the policies that the cluster may have been written
	// by (rbacsync.Evidence.PoliciesBefore).
	Before     *authz.Snapshot
	Was        []authz.Policy
	Deliveries []Delivery
	Now        time.Time
}

// Document is a plan. Its fields are documented in docs/plan.md.
type Document struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	GitLab     string      `json:"gitlab"`
	Made       time.Time   `json:"made"`
	Summary    Summary     `json:"summary"`
	Namespaces []Namespace `json:"namespaces"`
	Findings   []Finding   `json:"findings"`
}

// Summary counts what the whole plan has, whatever of it is shown.
type Summary struct {
	Sources       []Sources `json:"sources"`
	Created       int       `json:"created"` // namespaces
	Changed       int       `json:"changed"`
	Deleted       int       `json:"deleted"`
	Gained        int       `json:"gained"` // rights of people
	Lost          int       `json:"lost"`
	Exchanged     int       `json:"exchanged"` // one role for another
	People        int       `json:"people"`    // whom these rights are of
	Deliveries    int       `json:"deliveries"`
	Held          int       `json:"held"`
	Writes        int       `json:"writes"` // to the cluster, with EmptyBindings
	EmptyBindings int       `json:"emptyBindings"`
}

// Sources counts the namespaces of one kind as they would be, and names the entry of the configuration that makes them.
type Sources struct {
	Kind       authz.SourceKind `json:"kind"`
	Namespaces int              `json:"namespaces"`
	New        int              `json:"new"`
	Key        string           `json:"key"`
}

// Action is what becomes of something.
type Action string

// The actions.
const (
	Create Action = "create"
	Change Action = "change"
	Delete Action = "delete"
	Keep   Action = "keep" // of a namespace in which nothing is written
	Gain   Action = "gain"
	Lose   Action = "lose"
)

// Namespace is what is planned in one namespace.
type Namespace struct {
	Name       string     `json:"name"`
	Source     string     `json:"source,omitempty"` // "group/7"
	Path       string     `json:"path,omitempty"`   // of Source in GitLab
	Action     Action     `json:"action"`
	Why        string     `json:"why,omitempty"` // of a namespace whose source is gone, or that is deleted
	People     []Right    `json:"people,omitempty"`
	Jobs       []JobRight `json:"jobs,omitempty"`
	Deliveries []Delivery `json:"deliveries,omitempty"`
	Held       []Held     `json:"held,omitempty"`
	Writes     []Write    `json:"writes,omitempty"`
}

// User names a person.
type User struct {
	ID       int64  `json:"id"`
	Username string `json:"username,omitempty"`
	Subject  string `json:"subject"` // in Kubernetes
}

// Right is what one person gains, loses, or gets instead of something else.
type Right struct {
	Action Action   `json:"action"`
	User   User     `json:"user"`
	From   []string `json:"from,omitempty"` // ClusterRoles that they have no longer
	To     []string `json:"to,omitempty"`   // ClusterRoles that they get
	Reason Reason   `json:"reason"`
}

// JobRight is what CI jobs, or somebody else who is no person of GitLab, gain or lose.
type JobRight struct {
	Action  Action  `json:"action"`
	Subject Subject `json:"subject"`
	Role    string  `json:"role"`
	Reason  Reason  `json:"reason"`
}

// Subject is one of Kubernetes'.
type Subject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Reason says why, for programs and for people.
type Reason struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// Delivery is what the jobs of one project would be given in GitLab, or what would be taken back: keys of variables, never a
// value.
type Delivery struct {
	Project     string   `json:"project"` // "project/42"
	Path        string   `json:"path,omitempty"`
	Namespace   string   `json:"namespace"`
	Mode        string   `json:"mode"`
	Environment string   `json:"environment"`
	Protected   bool     `json:"protected"` // for protected branches and tags alone
	Write       []string `json:"write,omitempty"`
	Change      []string `json:"change,omitempty"` // what is there gets another value
	Remove      []string `json:"remove,omitempty"`
	RemoveFrom  string   `json:"removeFrom,omitempty"`  // the environment of Remove, if it is another one
	Integration bool     `json:"integration,omitempty"` // something becomes of GitLab's cluster integration
	// IntegrationAction is "write" for a new one, "change" or "remove".
	IntegrationAction string `json:"integrationAction,omitempty"`
	// ExplanationAction is the same for the KUBECONFIG that tells jobs without credentials why they have none.
	ExplanationAction string   `json:"explanationAction,omitempty"`
	Why               string   `json:"why,omitempty"`        // of what gets another value
	InTheWay          []string `json:"inTheWay,omitempty"`   // keys that the project uses itself
	OtherOwner        string   `json:"otherOwner,omitempty"` // the cluster whose variables are there: nothing is written
	Unread            bool     `json:"unread,omitempty"`     // GitLab did not show what is there
}

// Held is what is held back as `serve` would.
type Held struct {
	Action   Action `json:"action"` // Lose, or Create of a namespace
	Source   string `json:"source"`
	User     *User  `json:"user,omitempty"` // absent: CI jobs, or a namespace
	Role     string `json:"role,omitempty"`
	Cause    string `json:"cause"`
	Text     string `json:"text"`
	Approval string `json:"approval"` // the hash for `approve`
}

// Write is one write to the cluster. Bindings that are made and stay empty are left out.
type Write struct {
	Action  string   `json:"action"` // create, update, replace, delete
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Details []string `json:"details,omitempty"`
	Takes   bool     `json:"takesRights,omitempty"`
	Why     string   `json:"why"`

	plain bool // nobody gains or loses by it, so it is told by itself
}

// Finding is something that somebody should know.
type Finding struct {
	Code   string `json:"code"`
	Source string `json:"source,omitempty"`
	Text   string `json:"text"`
}
