package rbacsync

// Delivery is how the jobs of a project get their credentials.
type Delivery string

// The ways of delivery.
const (
	DeliverVariables   Delivery = "variables"   // project variables with a ServiceAccount token
	DeliverIDToken     Delivery = "id-token"    // project variables without a credential: the job shows its own ID token
	DeliverAgent       Delivery = "agent"       // the same through GitLab's agent, which impersonates the job
	DeliverCertificate Delivery = "certificate" // GitLab's deprecated cluster integration
	DeliverNone        Delivery = "none"        // nothing is handed over
)

// Secretless reports whether it needs no token of the ServiceAccount.
func (m Delivery) Secretless() bool { return m == DeliverIDToken || m == DeliverAgent }

// HandsToken reports whether it hands over a token of the ServiceAccount.
func (m Delivery) HandsToken() bool { return m == DeliverVariables || m == DeliverCertificate }

// WritesVariables reports whether it hands over project variables.
func (m Delivery) WritesVariables() bool { return m == DeliverVariables || m.Secretless() }

// DeliveryStatus is what is known of one project's delivery into one namespace.
type DeliveryStatus struct {
	// Known is false until the namespace's Secret was read.
	Known bool
	// Delivery is the one whose credentials were delivered last.
	Delivery Delivery
	// Settled says that this is long enough ago for all jobs with older credentials to be over.
	Settled bool
	// Slug is GitLab's slug of the environment, "" if it is not known.
	Slug string
	// Refused says that the agent may not be used.
	Refused bool
}

// DeliveryStatuses is what is known of deliveries, by the namespaces whose Secret was read, and project.
type DeliveryStatuses map[string]map[int64]DeliveryStatus

// Of returns what is known of a project's delivery into a namespace.
func (s DeliveryStatuses) Of(namespace string, project int64) DeliveryStatus {
	projects, known := s[namespace]
	st := projects[project]
	st.Known = known
	return st
}
