package web

import (
	"context"
	"errors"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
)

// Admin is what administrators see and do. Whoever calls it has asked Is before. What is not known yet is people.ErrUnread.
type Admin interface {
	// Is reports whether somebody is an administrator now. Who is one is asked at each use: an error closes the pages.
	Is(ctx context.Context, user int64) (bool, error)
	Status(ctx context.Context) (AdminStatus, error)
	// Held returns what is held back, by the parts that can be approved.
	Held(ctx context.Context) ([]HeldPart, error)
	// Approve lets a part go on that is held under the hash, in the name of a user of GitLab. It is ErrHeldChanged if no part has
	// that hash any more, which is so as soon as anything in it is another thing, and ErrHeldApproved if somebody else was faster.
	Approve(ctx context.Context, by int64, hash string) error
	// Search finds people by name or number, and namespaces by name or path: of each at most as many as limit.
	Search(text string, limit int) (AdminFound, error)
	// User returns what somebody has, of that at most limit namespaces from offset on; false if GitLab has no such account.
	User(user int64, offset, limit int) (AdminUser, bool, error)
	// Namespace returns who has access to a namespace; false if it belongs to nothing in GitLab.
	Namespace(name string) (AdminNamespace, bool, error)
	// Explain says all about one request of a person, who is named by user name or number, with the bindings that the cluster has
	// of them; false if there is no such person.
	Explain(ctx context.Context, user string, q authz.Question) (explain.Report, bool, error)
}

// ErrHeldChanged says that what was to be approved is not held in that form any more.
var ErrHeldChanged = errors.New("what is held has changed")

// ErrHeldApproved says that a part was approved already.
var ErrHeldApproved = errors.New("this was approved already")

// AdminStatus is the state of the whole, as the leader wrote it down last; keys, certificates and tokens are those of the process
// that answers.
type AdminStatus struct {
	None   bool // no round has ended yet: all of the leader's is empty
	Mode   string
	Leader string // "": nobody leads
	Stale  bool   // the leader has not renewed its Lease
	// Failing is the error while rounds fail, since Since.
	Failing       string
	Since         time.Time
	Written, Read time.Time // of this; when GitLab was read
	Round         AdminRound
	Sources       []Amount
	Staleness     []Amount
	Held          int
	Findings      []AdminFinding
	More          int // findings without a text of their own
	Hooks         AdminHooks
	NoLogins      bool
	Login         time.Time
	Keys          AdminKeys
	Ends          []AdminEnd // the first first
	Budget        []AdminBudget
}

// Works reports whether a leader works.
func (s AdminStatus) Works() bool { return !s.None && s.Leader != "" && !s.Stale && s.Failing == "" }

// AdminRound is the last round that could read GitLab and the cluster.
type AdminRound struct {
	Cause                                string
	Started                              time.Time
	Duration                             string
	Namespaces, Planned, Applied, Failed int
}

// Amount is something with a name.
type Amount struct{ Name, Value string }

// AdminFinding is something that somebody should know of, with what to do: docs.Finding.
type AdminFinding struct {
	Code, Text string // Text is empty where only their number was kept
	Says, Do   string
	Count      int // of its code, with the first one of them; 0 with the others
}

// AdminHooks says what became of GitLab's hooks.
type AdminHooks struct {
	None            bool // there is no listener for them
	Count           int  // since the leader's start
	Median, Slowest string
	Last            time.Time
	Refused         string // why they can't be checked
}

// AdminKeys are GitLab's signing keys.
type AdminKeys struct {
	None     bool // kube-apiserver judges tokens by itself
	Keys     int
	Fetched  time.Time
	Failures uint64
}

// AdminEnd says when a certificate or token ends.
type AdminEnd struct {
	What string
	At   time.Time
	Soon bool // somebody should act
}

// AdminBudget is the use of one of GitLab's limits.
type AdminBudget struct {
	Kind     string
	Requests int64   // since the leader's start
	Limit    float64 // of GitLab's default, in a minute; 0: there is none
	Share    string  // of the limit, in the last minute; "": nothing
}

// HeldPart is a part of what is held that is approved as one.
type HeldPart struct {
	Hash   string // of all that it has
	Place  string // "group/7 haw", or what was changed
	Why    string
	Policy bool // a change of the configuration takes it
	Lines  []HeldLine
	More   int // lines that are not among them
	// Approved is who approved it, "" if nobody did: then it goes on with the next round.
	Approved string
}

// Total is how many things the part has.
func (p HeldPart) Total() int { return len(p.Lines) + p.More }

// HeldLine is one thing that is held.
type HeldLine struct {
	New          bool // a namespace that is not made yet; else somebody loses Role
	Source, Path string
	User         int64 // who loses it; 0: the CI of the namespace
	Name, Role   string
	Cause        string
}

// AdminFound is what a search finds.
type AdminFound struct {
	People                     []authz.User
	Namespaces                 []AdminPlace
	MorePeople, MoreNamespaces int // that were found and are not shown
}

// AdminPlace is a namespace.
type AdminPlace struct{ Name, Source, Path string }

// AdminUser is somebody with all that they have.
type AdminUser struct {
	User   authz.User
	Total  int // namespaces
	Rights []AdminRight
}

// AdminRight is what somebody has in a namespace.
type AdminRight struct {
	Namespace, Path string
	Roles, Lacks    []string
	State           string // authz.Absence
	Reason          string
	Until           time.Time
}

// AdminNamespace is a namespace with those who have access.
type AdminNamespace struct {
	AdminPlace
	URL     string
	Holders []AdminHolder
}

// AdminHolder is somebody with access to a namespace.
type AdminHolder struct {
	User         authz.User
	Roles, Lacks []string
	State        string
	Reason       string
	Until        time.Time
}
