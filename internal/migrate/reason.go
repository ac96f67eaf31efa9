package migrate

import (
	"fmt"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Code names a reason. Each has a row in docs/migrate.md.
type Code string

// Why a namespace is not proposed.
const (
	AmbiguousLabel    Code = "ambiguous_label"
	AmbiguousName     Code = "ambiguous_name"
	BothOrigins       Code = "both_origins"
	CaseDiffers       Code = "case_differs"
	DecidedElsewhere  Code = "decided_elsewhere"
	HasNamespace      Code = "has_namespace"
	Ignored           Code = "ignored"
	LabelDiffers      Code = "label_differs"
	LeftOut           Code = "left_out"
	MarkedAlready     Code = "marked_already"
	NameDiffers       Code = "name_differs"
	OlderThanSource   Code = "older_than_source"
	OtherManager      Code = "other_manager"
	PersonalNamespace Code = "personal_namespace"
	Renamed           Code = "renamed"
	ReservedName      Code = "reserved_name"
	SeveralNamespaces Code = "several_namespaces"
	SharedName        Code = "shared_name"
	SourceGone        Code = "source_gone"
	Terminating       Code = "terminating"
	UnknownAge        Code = "unknown_age"
	UnknownNamespace  Code = "unknown_namespace"
	UnreadSource      Code = "unread_source"
)

// What is good to know about one that is proposed.
const (
	CIInTheWay Code = "ci_in_the_way"
	NetAdmin   Code = "net_admin"
	Suffixed   Code = "suffixed"
)

// Reason says why, for programs and for people.
type Reason struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

func because(code Code, format string, args ...any) Reason {
	for i, a := range args {
		if s, ok := a.(string); ok { // what people chose is for a terminal, too
			args[i] = rbacsync.Printable(s)
		}
	}
	return Reason{code, fmt.Sprintf(format, args...)}
}
