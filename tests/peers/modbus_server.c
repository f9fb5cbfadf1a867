/* A Modbus TCP device made by libmodbus: modbus_server PORT, its memory on standard input as lines "TABLE ADDRESS WORD"
 * (c coil, d discrete, i input, h holding; decimal), until the end. Unit 1, one client after the other, or several.
 */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <unistd.h>

/* Addresses of 16 bits, as on the wire. */
#define MEMORY 65536

int main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    modbus_t *context = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    modbus_mapping_t *memory = modbus_mapping_new(MEMORY, MEMORY, MEMORY, MEMORY);
    if (context == NULL || memory == NULL) {
        return 1;
    }
    char table;
    int address, word;
    while (scanf(" %c %d %d", &table, &address, &word) == 3) {
        if (address < 0 || address >= MEMORY) {
            return 2;
        }
        switch (table) {
        case 'c': memory->tab_bits[address] = word != 0; break;
        case 'd': memory->tab_input_bits[address] = word != 0; break;
        case 'i': memory->tab_input_registers[address] = word; break;
        case 'h': memory->tab_registers[address] = word; break;
        default: return 2;
        }
    }
    int listener = modbus_tcp_listen(context, 4);
    if (listener == -1) {
        perror("listen");
        return 1;
    }
    fd_set open;
    FD_ZERO(&open);
    FD_SET(listener, &open);
    int highest = listener;
    for (;;) {
        fd_set ready = open;
        if (select(highest + 1, &ready, NULL, NULL, NULL) == -1) {
            return 1;
        }
        for (int socket = 0; socket <= highest; socket++) {
            if (!FD_ISSET(socket, &ready)) {
                continue;
            }
            if (socket == listener) {
                int client = modbus_tcp_accept(context, &listener);
                if (client != -1) {
                    FD_SET(client, &open);
                    highest = client > highest ? client : highest;
                }
                continue;
            }
            uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
            modbus_set_socket(context, socket);
            int length = modbus_receive(context, request);
            if (length > 0) {
                modbus_reply(context, request, length, memory);
            } else if (length == -1) {
                close(socket);
                FD_CLR(socket, &open);
            }
        }
    }
}
