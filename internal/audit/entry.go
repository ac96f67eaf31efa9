package audit

import "time"

// What says what an Entry is about.
type What string

// A right was gained or lost, or an object that gives nobody a right was written.
const (
	Gained  What = "gained"
	Lost    What = "lost"
	Created What = "created"
	Changed What = "changed"
	Deleted What = "deleted"
)

// Entry is one change: somebody gained or lost a ClusterRole in a namespace, or an object was written there.
type Entry struct {
	// At is when: of a right that was gained, when its writing began, and of one that was lost, when its writing had ended, so
	// that nobody had it for longer than is recorded.
	At         time.Time `json:"at"`
	Namespace  string    `json:"namespace"`
	What       What      `json:"what"`
	Who        Who       `json:"who,omitzero"`         // of a right
	Role       string    `json:"role,omitempty"`       // of a right: the ClusterRole
	Object     string    `json:"object,omitempty"`     // of an object: "NetworkPolicy haw-world/deny-all"
	Cause      string    `json:"cause"`                // what made the integrator look, as in docs/history.md
	Why        string    `json:"why,omitempty"`        // the row of membership behind it, or what became of it
	ApprovedBy string    `json:"approvedBy,omitempty"` // who approved it, where it was held
	// Found says that the right was found to be there, or not, without a record of who wrote it: somebody else did, or it was
	// not recorded. It happened at At or before.
	Found bool `json:"found,omitempty"`
}

// Who is somebody with a right.
type Who struct {
	// ID is GitLab's number of a person; 0 for a subject that is no person, and for a person who is pseudonymised.
	ID int64 `json:"id,omitempty"`
	// Name is the user name as last known, "person-7" of a person who is pseudonymised, and of what is no person the subject:
	// "ServiceAccount haw-world/gitlab-ci".
	Name string `json:"name"`
	// Gone is since when GitLab has no such person any more.
	Gone time.Time `json:"gone,omitzero"`
}

// Right is a ClusterRole that somebody had at a moment, and the Entry it came by.
type Right struct {
	Namespace string `json:"namespace"`
	Who       Who    `json:"who"`
	Role      string `json:"role"`
	// Since, Cause, Why and ApprovedBy are of the Entry by which it was gained. They are empty where it was there before the
	// history begins.
	Since      time.Time `json:"since,omitzero"`
	Cause      string    `json:"cause,omitempty"`
	Why        string    `json:"why,omitempty"`
	ApprovedBy string    `json:"approvedBy,omitempty"`
}

// Moment is who had which right at a time.
type Moment struct {
	At time.Time `json:"at"`
	// Begins is when the history begins. Of a time before that nothing is known, and Known is false.
	Begins time.Time `json:"begins"`
	// Recorded is until when the history was last known to be up to date.
	Recorded time.Time `json:"recorded"`
	Known    bool      `json:"known"`
	Rights   []Right   `json:"rights"` // by namespace, name and role
}
