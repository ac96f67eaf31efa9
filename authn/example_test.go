package authn_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

// A reason code, as status.error or a metric shows it, can be explained.
func ExampleReasonFor() {
	reason, _ := authn.ReasonFor(authn.CodeCINoEnvironment)
	fmt.Println(reason.Cause)
	fmt.Println(reason.Hint)
	// Output:
	// the job has no environment
	// Add `environment: {name: …}` with the configured name to the job.
}

// Tokens of others are left to others without asking GitLab for anything.
func ExampleNew() {
	gitlab, err := authn.New(authn.Config{
		Issuer:       "https://gitlab.example.com",
		ClientIDs:    []string{"5f1c0ffee"}, // of kubelogin's OAuth application
		CIAudience:   "https://k8s.example.com",
		Environments: []string{"ICC-K8s"},
		CIProject: func(id int64) authn.ProjectStanding { // whose jobs are let in
			if id == 20 {
				return authn.ProjectServed
			}
			return authn.ProjectNotServed
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = gitlab.Authenticate(context.Background(), strings.Repeat("x", 20))
	fmt.Println(err)
	// Output: not_a_jwt: the token is not a JSON web token
}
