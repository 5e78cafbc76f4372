// What a kubelet does for `kubectl exec` and `kubectl port-forward`: by the kubelet's own streaming code, a command is run in a container that
// somebody else runs as processes, and connections go on to a port of its pod. FOLDER/NAMESPACE/POD/CONTAINER is the executable that enters
// it, `address` beside it the pod's. It prints the port that it listens at, and ends with its stdin.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	common "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	streaming "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const limit = time.Minute

type node struct{ folder string }

func (n node) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	switch {
	case len(parts) == 4 && parts[0] == "exec":
		n.exec(w, request, filepath.Join(parts[1], parts[2]), parts[3])
	case len(parts) == 3 && parts[0] == "portForward":
		n.portForward(w, request, filepath.Join(parts[1], parts[2]))
	default:
		http.NotFound(w, request)
	}
}

func (n node) exec(w http.ResponseWriter, request *http.Request, pod, container string) {
	options, err := streaming.NewOptions(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	streaming.ServeExec(w, request, n, pod, "", container, request.URL.Query()["command"], options, limit, limit, common.SupportedStreamingProtocols)
}

func (n node) portForward(w http.ResponseWriter, request *http.Request, pod string) {
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, request, n, pod, "", options, limit, limit, portforward.SupportedProtocols)
}

func (n node) ExecInContainer(ctx context.Context, pod string, _ types.UID, container string, command []string, in io.Reader,
	out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	child := exec.CommandContext(ctx, filepath.Join(n.folder, pod, container), command...)
	child.Stdin, child.Stdout, child.Stderr = in, out, err
	failure := child.Run()
	if ended, ok := failure.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: failure, Code: ended.ExitCode()}
	}
	return failure
}

func (n node) PortForward(_ context.Context, pod string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	address, err := os.ReadFile(filepath.Join(n.folder, pod, "address"))
	if err != nil {
		return err
	}
	connection, err := net.Dial("tcp", net.JoinHostPort(string(address), strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer connection.Close()
	go io.Copy(connection, stream)
	_, err = io.Copy(stream, connection)
	return err
}

func main() {
	server := httptest.NewUnstartedServer(node{os.Args[1]})
	// the streams are those of HTTP/1.1
	server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	server.StartTLS()
	fmt.Println(server.URL[strings.LastIndex(server.URL, ":")+1:])
	io.Copy(io.Discard, os.Stdin)
}
