// SPDX-License-Identifier: MIT

package gateway

import "syscall"

// What Winsock answers: package syscall has made-up numbers under the names that it shares with other systems,
// which are those of our own errors.
const (
	wsaEACCES       = syscall.Errno(10013)
	wsaEMSGSIZE     = syscall.Errno(10040)
	wsaEAFNOSUPPORT = syscall.Errno(10047)
	wsaENETDOWN     = syscall.Errno(10050)
	wsaENETUNREACH  = syscall.Errno(10051)
	wsaENOBUFS      = syscall.Errno(10055)
	wsaECONNRESET   = syscall.Errno(10054)
	wsaECONNREFUSED = syscall.Errno(10061)
	wsaEHOSTDOWN    = syscall.Errno(10064)
	wsaEHOSTUNREACH = syscall.Errno(10065)
)

// answers are the errors of sockets that say what became of a packet, and what they are to the peer.
var answers = []answer{
	{syscall.ECONNREFUSED, []error{syscall.ECONNREFUSED, wsaECONNREFUSED, wsaECONNRESET}},
	{syscall.EHOSTUNREACH, []error{syscall.EHOSTUNREACH, wsaEHOSTUNREACH, wsaEHOSTDOWN}},
	{syscall.ENETUNREACH, []error{syscall.ENETUNREACH, wsaENETUNREACH, wsaENETDOWN, wsaEAFNOSUPPORT}},
	{syscall.EACCES, []error{wsaEACCES}},
}

// lossErrnos are the errors of sockets after which the next datagram may fare better.
var lossErrnos = []error{wsaEMSGSIZE, wsaENOBUFS}
