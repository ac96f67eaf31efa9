// Package doctor looks at everything that has to fit for an installation to work, and names what does not. Collect gathers
// facts, each within its own time; Judge turns them into problems by rules that do no I/O. A fact that could not be had is one
// too: see Facts.Blind.
package doctor

import (
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// Facts are what was found. A part that was not looked at is zero, and raises no problem.
type Facts struct {
	Now          time.Time
	Config       *config.Config // nil if it can't be used
	ConfigFault  string
	FileFaults   []string // of files that the configuration names
	GitLab       GitLab
	Read, Write  Token
	Shared       bool // both token files hold the same
	Applications []Application
	Page         *Application // that of web.clientID; nil: there is none, or what GitLab has could not be listed
	Hooks        Hooks
	Certificates []Certificate
	Cluster      Cluster
	Authn        Webhook // as this machine reaches it, by the kubeconfig that kube-apiserver has
	Explain      Webhook
	Through      Through // as kube-apiserver reaches it
	Authorizers  Authorizers
	Judges       Judges
	Given        *APIServer // how kube-apiserver is started, by the file that was given
	GivenUnfit   string     // why that file can't be used
	Blind        []Blind    // what could not be looked at
	Skipped      []Blind    // what was not asked for
}

// Blind is something that could not be looked at.
type Blind struct {
	What string `json:"what"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// Fault is the kind of a failed connection.
type Fault string

// The kinds of failed connections.
const (
	None         Fault = ""
	Away         Fault = "away"         // nobody answers at this address
	Untrusted    Fault = "untrusted"    // another CA signed the certificate
	OtherName    Fault = "other name"   // the certificate is for another name
	Ended        Fault = "ended"        // the certificate's time is over, or has not begun
	ClientRefuse Fault = "client"       // the server refused our client certificate, or that there was none
	Odd          Fault = "odd"          // it answers, but not as it should
	Path         Fault = "path"         // nothing is served at this path
	Foreign      Fault = "foreign"      // it answers for another GitLab
	Unasked      Fault = "unasked"      // kube-apiserver asks no webhook about tokens
	Credentials  Fault = "credentials"  // HTTP 401
	NotInstalled Fault = "notinstalled" // the integrator's namespace is absent
)

// GitLab is what answers at gitlab.url.
type GitLab struct {
	Fault   Fault
	Text    string // of the fault
	Issuer  string // "": not asked
	Keys    int
	KeysBad string         // why there are no keys
	Clock   *time.Duration // GitLab's clock minus ours; nil: not known
	Version string
	Number  gitlabversion.Version // zero: not known
}

// Token is one of the two tokens for GitLab.
type Token struct {
	Known   bool
	Refused string // why GitLab does not take it
	State   gitlab.TokenState
}

// Application is an OAuth application by one of authn.clientIDs.
type Application struct {
	ID       string
	Found    *gitlab.Application // nil: GitLab has no such application of its own
	Unlisted bool                // whether it has could not be asked
	Client   Client
}

// Client is how GitLab's token endpoint takes a client that has no secret.
type Client string

// How a client is taken.
const (
	ClientUnasked Client = ""
	ClientTaken   Client = "taken"   // it exists and is not confidential
	ClientRefused Client = "refused" // it does not exist, or is confidential
)

// Hooks are the system hooks that integrators made.
type Hooks struct {
	Known  bool
	All    []gitlab.HookState
	Tested bool // GitLab sent its sample event, and it arrived, with a wrong secret maybe
	Lost   bool // GitLab sent it, and it did not arrive
}

// enabled returns the one that is not another cluster's and that GitLab sends to; first one that names this cluster: others may be
// anybody's.
func (h Hooks) enabled() (found *gitlab.HookState) {
	for _, k := range h.ours() {
		if k.Alert != "" && k.Alert != "executable" {
			continue
		}
		if k.Cluster != "" {
			return &k
		}
		if found == nil {
			found = &k
		}
	}
	return found
}

// Certificate is one with its end.
type Certificate struct {
	What   string // "listeners.webhooks.certFile tls.crt"
	Begins time.Time
	Ends   time.Time
}

// Cluster is what kube-apiserver says.
type Cluster struct {
	Fault        Fault
	Text         string
	Version      string // "v1.34.1"
	Clock        *time.Duration
	FenceMissing string
	FenceRoles   string // ClusterRoles that the fence does not know
	Fenced       bool   // the fence was looked at, and is as it has to be
	Deletion     string // why deletion, which is configured, can't be done
	Roles        clusterroles.Roles
	Namespaces   int      // that are ours
	Privileged   []string // namespaces of ours whose Pod Security is not what is configured at least
	Silent       bool     // no round has ended
	Status       *status.Summary
	Started      []APIServer // by the mirrors of static pods
	Want, Ready  int32       // replicas of the Deployment; both 0: there is none, or it may not be read
}

// Webhook is one of our webhooks.
type Webhook struct {
	File  string // kubeconfig, "": not given
	Unfit string // why the file can't be used
	URL   string
	Path  string
	Fault Fault
	Text  string
	Code  string // of the answer to our own token
}

// Through is what kube-apiserver said about a token of ours.
type Through struct {
	Known bool
	Fault Fault
	Text  string
	JWT   bool // kube-apiserver judges tokens of GitLab itself
	// Version is in which the integrator was asked: "v1", "v1beta1"; "": not known.
	Version string
}

// Authorizers are what is in kube-apiserver's AuthorizationConfiguration.
type Authorizers struct {
	File          string // "": not given
	Unfit         string
	Types         []string
	Ours          int // index of our webhook, -1: it is not named
	FailurePolicy string
	Conditions    int
	Timeout       time.Duration
	Version       string        // subjectAccessReviewVersion
	MatchVersion  string        // matchConditionSubjectAccessReviewVersion
	Kept          time.Duration // unauthorizedTTL; 0: kube-apiserver's own, 30 s
}
