package ci

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Config says what a Provisioner works with. It does not change while that lives.
type Config struct {
	Kube kubernetes.Interface
	// Variables and Clusters write into GitLab; a nil one makes the modes that need it findings.
	Variables VariableWriter
	Clusters  ClusterWriter
	Agent     *Agent // nil: mode agent is a finding
	Cluster   Cluster
	// Replaces are ids of clusters that are no more: what names them in GitLab is ours. See Claim.
	Replaces []string
	Name     string        // of the cluster, for telling people
	Audience string        // of ID tokens, for telling people
	Scope    string        // the environment; a changed one is delivered again
	Lifetime time.Duration // asked for; the API server may give less
	// Handover is how long what jobs had before still works after a project was moved to another mode: as long as jobs
	// run.
	Handover time.Duration
	// Withhold is how long no token is written into the Secret that people can read, after somebody has lost the right to
	// read it: as long as a watch can live. 0: until an administrator removes kubename.AnnotationWithheldSince, because
	// kube-apiserver lets a client choose how long its watch lives (timeoutSeconds).
	Withhold time.Duration
	// Recheck is how long a Secret that was found in order is not looked at again; default 5 minutes. Of more than 3,000 it is longer:
	// see looksTogether.
	Recheck     time.Duration
	Concurrency int // namespaces at the same time; default 4
	// Rate is how many projects are written to in a second. The default, 5, keeps below 40 requests a second when every
	// project gets all of its variables.
	Rate float64
	// CA, optional, reads Cluster's CA anew at each pass: it is in a file that is replaced beside us.
	CA func() ([]byte, error)
	// Keys, optional, returns the ids of the keys of which the API server accepts tokens. See KeysOf.
	Keys func(context.Context) (map[string]bool, error)
	// Reach, optional, says why jobs could not reach the API server. See Reach.
	Reach func(context.Context, Cluster) error
	// TooOld, optional, says why this GitLab is too old for a mode, "" if it is not. While it can't be asked, it is not.
	TooOld func(context.Context, rbacsync.Delivery) (why string, err error)
	// Expands, optional, says whether GitLab is so old that it replaces references to variables in values (a "$"): then no
	// script can be delivered.
	Expands func(context.Context) (bool, error)
	Now     func() time.Time
	Logger  *slog.Logger // nil: no log
}

// Provisioner keeps tokens fresh and delivered. Its methods may be called at the same time, but for Provision and
// ProvisionBeside, which one goroutine calls at a time.
type Provisioner struct {
	c Config // never changed
	memory
	pace *rate.Limiter

	// Answers of others, which are asked for again after Config.Recheck. Each has its own lock.
	keys  keyring
	reach cached[error]
	agent cached[AgentState]
	old   map[rbacsync.Delivery]*cached[string] // the map is never changed
	plain cached[bool]

	trimmer caTrimmer // of who calls Provision
}

// New returns a Provisioner that knows nothing yet but what is in the cluster.
func New(c Config) *Provisioner {
	c = c.complete()
	return &Provisioner{
		c: c, memory: newMemory(c.configured()), pace: rate.NewLimiter(rate.Limit(c.Rate), 10),
		keys: keyring{fresh: map[string]time.Time{}}, old: map[rbacsync.Delivery]*cached[string]{rbacsync.DeliverIDToken: {}, rbacsync.DeliverAgent: {}},
	}
}

func (c Config) complete() Config {
	c.Recheck = cmp.Or(max(c.Recheck, 0), 5*time.Minute)
	c.Concurrency = cmp.Or(max(c.Concurrency, 0), 4)
	c.Rate = cmp.Or(max(c.Rate, 0), 5)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ClusterID returns what names a cluster in GitLab: the UID of its namespace kube-system, which lives as long as the cluster.
func ClusterID(ctx context.Context, kube kubernetes.Interface) (string, error) {
	ns, err := kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading which cluster this is, by the UID of namespace %s: %w", metav1.NamespaceSystem, err)
	}
	if ns.UID == "" {
		return "", fmt.Errorf("reading which cluster this is: namespace %s has no UID", metav1.NamespaceSystem)
	}
	return string(ns.UID), nil
}
